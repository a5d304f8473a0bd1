"""Asks getaddrinfo of the C library for a name's addresses. Prints one a line; or what went wrong, with status 1."""
import socket
import sys

try:
    found = socket.getaddrinfo(sys.argv[1], None, type=socket.SOCK_STREAM)
except socket.gaierror as error:
    print(error)
    sys.exit(1)
for *_, address in found:
    print(address[0])
