# SPDX-License-Identifier: Apache-2.0
"""Resolves a name with c-ares and prints its IPv4 addresses, or the error."""
import select
import socket
import sys

import pycares

channel = pycares.Channel()
result = []


def done(found, error):
    result.append((found, error))


channel.gethostbyname(sys.argv[1], socket.AF_INET, done)
while not result:
    reads, writes = channel.getsock()
    reads, writes, _ = select.select(reads, writes, [], channel.timeout())
    for fd in reads:
        channel.process_fd(fd, pycares.ARES_SOCKET_BAD)
    for fd in writes:
        channel.process_fd(pycares.ARES_SOCKET_BAD, fd)
    if not reads and not writes:
        channel.process_fd(pycares.ARES_SOCKET_BAD, pycares.ARES_SOCKET_BAD)
found, error = result[0]
if error is not None:
    print(pycares.errno.errorcode[error])
    sys.exit(1)
print(*found.addresses, sep="\n")
