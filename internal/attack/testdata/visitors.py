# SPDX-License-Identifier: Apache-2.0
"""What a visitor of a Gateway tries."""
import socket, ssl

from names import received, statuses


def https_as(addr, port, name, pem):
    """A request over TLS with a client certificate; "": with none."""
    ctx = ssl.create_default_context()
    ctx.check_hostname, ctx.verify_mode = False, ssl.CERT_NONE
    if pem:
        ctx.load_cert_chain(pem)
    with socket.create_connection((addr, int(port)), 2) as raw:
        s = ctx.wrap_socket(raw, server_hostname=name)
        s.sendall(b"GET / HTTP/1.1\r\nHost: " + name.encode() + b"\r\nConnection: close\r\n\r\n")
        got = b""
        while part := s.recv(65536):
            got += part
        return statuses(got)


def endless_hello(addr, port, megabytes):
    """A ClientHello that says it has 16 MB: how much of it is taken."""
    record = b"\x16\x03\x01\x40\x00"
    with socket.create_connection((addr, int(port)), 2) as s:
        s.settimeout(15)
        s.sendall(record + b"\x01\xff\xff\xff\x03\x03" + bytes(16378))
        for _ in range(int(megabytes) * 64):
            s.sendall(record + bytes(16384))
        return "taken"


def field(addr, port, host, name, value):
    """Whether the site, which answers with what it was sent, has a field as a visitor sent it."""
    with socket.create_connection((addr, int(port)), 2) as s:
        s.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\n{name}: {value}\r\nConnection: close\r\n\r\n".encode())
        got = received(s, 5)
    if b"HTTP/1.1 200" not in got:
        return statuses(got)
    return "passed on" if value.encode() in got else "passed without it"
