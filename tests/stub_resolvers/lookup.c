/* Asks the C library for a name's addresses, as most programs do. Prints one a line; or what went wrong, with status 1. */
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: %s NAME\n", argv[0]);
        return 2;
    }
    /* Both families, whatever addresses this machine has itself. */
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    int error = getaddrinfo(argv[1], NULL, &hints, &found);
    if (error != 0) {
        puts(gai_strerror(error));
        return 1;
    }
    for (struct addrinfo *one = found; one != NULL; one = one->ai_next) {
        char text[64];
        if (getnameinfo(one->ai_addr, one->ai_addrlen, text, sizeof text, NULL, 0, NI_NUMERICHOST) == 0)
            puts(text);
    }
    freeaddrinfo(found);
    return 0;
}
