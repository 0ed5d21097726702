"""hoard.py KIND COUNT HOST:PORT... keeps COUNT connections open in all, however often
they are closed on it, until its input ends.

silent     says nothing
slow       sends a byte of a request's head now and then
keep       has one request answered and says nothing more
dns        says nothing to a DNS server
ask        has a question under way that no server answers
ended      has one request answered that ends the connection, and never closes it
"""
import select
import socket
import struct
import sys

kind, count = sys.argv[1], int(sys.argv[2])
dests = [(a.rsplit(":", 1)[0].strip("[]"), int(a.rsplit(":", 1)[1])) for a in sys.argv[3:]]
host = "www.googleapis.com"
request = b"GET / HTTP/1.1\r\nHost: " + host.encode() + b"\r\n"
held = [None] * count


def ask(i, addr, port):
    s = socket.socket(socket.AF_INET6 if ":" in addr else socket.AF_INET, socket.SOCK_DGRAM)
    s.setblocking(False)
    name = b"".join(bytes([len(p)]) + p for p in (b"q%d" % i, b"slow", b"example", b""))
    try:
        s.connect((addr, port))
        s.send(struct.pack("!6H", i, 0x100, 1, 0, 0, 0) + name + struct.pack("!2H", 1, 1))
    except OSError:
        s.close()
        return None
    return s


def begin(i):
    addr, port = dests[i % len(dests)]
    if kind == "ask":
        return ask(i, addr, port)
    s = socket.socket(socket.AF_INET6 if ":" in addr else socket.AF_INET)
    s.settimeout(2)
    try:
        s.connect((addr, port))
        if kind == "keep":
            s.sendall(request + b"\r\n")
        elif kind == "ended":
            s.sendall(request + b"Connection: close\r\n\r\n")
        elif kind == "slow":
            s.sendall(b"G")
    except OSError:
        s.close()
        return None
    s.setblocking(False)
    return s


def alive(s):
    try:
        while True:
            if not s.recv(65536) or kind == "ask":
                return kind == "ended"
    except BlockingIOError:
        pass
    except OSError:
        return False
    try:
        if kind == "slow":
            s.send(b"E")
    except OSError:
        return False
    return True


while True:
    for i in range(count):
        if held[i] is not None and not alive(held[i]):
            held[i].close()
            held[i] = None
        if held[i] is None:
            held[i] = begin(i)
        if select.select([sys.stdin], [], [], 0)[0]:
            sys.exit()
    if select.select([sys.stdin], [], [], 0.05)[0]:
        sys.exit()
