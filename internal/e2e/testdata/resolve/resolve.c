// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause

// Resolves a name with libc and prints its addresses, or the error.
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found, *a;
	char text[NI_MAXHOST];
	int err;

	if (argc != 2)
		return 2;
	err = getaddrinfo(argv[1], "443", &hints, &found);
	if (err) {
		puts(gai_strerror(err));
		return 1;
	}
	for (a = found; a; a = a->ai_next)
		if (!getnameinfo(a->ai_addr, a->ai_addrlen, text, sizeof(text), NULL, 0, NI_NUMERICHOST))
			puts(text);
	return 0;
}
