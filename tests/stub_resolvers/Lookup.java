// Asks Java's InetAddress for a name's addresses. Prints one a line; or what went wrong, with status 1.
import java.net.InetAddress;
import java.net.UnknownHostException;

class Lookup {
    public static void main(String[] arguments) {
        try {
            for (InetAddress address : InetAddress.getAllByName(arguments[0])) {
                System.out.println(address.getHostAddress());
            }
        } catch (UnknownHostException error) {
            System.out.println(error.getMessage());
            System.exit(1);
        }
    }
}
