# SPDX-License-Identifier: Apache-2.0
"""TLS, HTTP and DNS: names that are not what they seem."""
import re, socket, ssl, struct

from ways import family


def u16(b):
    return struct.pack("!H", len(b)) + b


def ext(kind, data):
    return struct.pack("!H", kind) + u16(data)


def sni(*names):
    return ext(0, u16(b"".join(b"\0" + u16(n.encode("latin-1")) for n in names)))


def hello(extensions, record=0):
    """A ClientHello in records of at most so many bytes (0: in one)."""
    body = b"\x03\x03" + bytes(range(32)) + b"\0" + u16(b"\x13\x01\xc0\x2f") + b"\x01\0" + u16(extensions)
    shake = b"\x01" + struct.pack("!I", len(body))[1:] + body
    record = record or 16000
    return b"".join(b"\x16\x03\x01" + u16(shake[i:i + record]) for i in range(0, len(shake), record))


CCS = b"\x14\x03\x03\0\x01\x01"

VARIANTS = {
    # What may follow a HelloRetryRequest (RFC 8446 section 4.1.4): servers take the name from there.
    "again": lambda n: hello(sni("tls.example")) + hello(sni(n)),
    "again-ccs": lambda n: hello(sni("tls.example")) + CCS + hello(sni(n)),
    "again-pieces": lambda n: hello(sni("tls.example")) + CCS + hello(sni(n), 3),
    "again-alert": lambda n: hello(sni("tls.example")) + b"\x15\x03\x03\0\x02\x01\x5a" + CCS + hello(sni(n)),
    "again-early": lambda n: hello(sni("tls.example") + ext(42, b"")) + b"\x17\x03\x03" + u16(b"e" * 7000) + hello(sni(n)),
    "again-none": lambda n: hello(sni("tls.example")) + CCS + hello(ext(43, b"\x02\x03\x04")),
    "name": lambda n: hello(sni(n)),
    "none": lambda n: hello(ext(43, b"\x02\x03\x04")),
    "empty": lambda n: hello(ext(0, b"")),
    "two": lambda n: hello(sni(n, "stranger.example")),
    "twice": lambda n: hello(sni(n) + sni("stranger.example")),
    "nul": lambda n: hello(sni(n + "\0.stranger.example")),
    "records": lambda n: hello(sni(n), 3),
    "padded": lambda n: hello(ext(21, b"\0" * 40000) + sni(n)),
    "ech": lambda n: hello(sni(n) + ext(0xfe0d, b"\0\0\x01\0\x01\x07\0\x20" + b"k" * 32 + u16(b"inner" * 20))),
    "change": lambda n: b"\x14\x03\x01\0\x01\x01" + hello(sni(n)),
    "alert": lambda n: b"\x15\x03\x01\0\x02\x01\0" + hello(sni(n)),
    "ssl2": lambda n: b"\x80\x2e\x01\x03\x01\0\x15\0\0\0\x10" + b"\0" * 40,
    "http": lambda n: b"GET / HTTP/1.1\r\nHost: " + n.encode() + b"\r\n\r\n",
}


def received(s, limit=1.0):
    """All that comes within the limit, or until nothing comes for a while."""
    got = b""
    s.settimeout(limit)
    try:
        while True:
            part = s.recv(65536)
            if not part:
                break
            got += part
            s.settimeout(0.1)
    except socket.timeout:
        pass
    return got


def first(addr, port, variant, name, split="0", how=""):
    """The first bytes of a connection, to a server that echoes."""
    data = VARIANTS[variant](name)
    s = socket.socket(family(addr), socket.SOCK_STREAM)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    s.settimeout(2)
    if how == "early":  # the first send() waits in SYN_SENT
        s.setblocking(False)
        s.connect_ex((addr, int(port)))
        s.settimeout(2)
    elif how == "fastopen":
        s.settimeout(None)
        s.sendto(data, socket.MSG_FASTOPEN, (addr, int(port)))
    else:
        s.connect((addr, int(port)))
    if how == "urgent":  # the receiver's stream does not have this byte
        at = data.index(name.encode()) + 1
        s.send(data[:at])
        s.send(data[at:at + 1], socket.MSG_OOB)
        s.send(data[at + 1:])
    elif how != "fastopen":
        step = int(split) or len(data)
        for i in range(0, len(data), step):
            s.send(data[i:i + step])
    return "reached" if received(s) else "silence"


def retry(addr, port, name, other):
    """A real HelloRetryRequest, and another name in the second hello."""
    def full(n, share):
        return hello(sni(n) + ext(43, b"\x02\x03\x04") + ext(10, u16(b"\0\x1d")) + ext(13, u16(b"\x04\x03\x08\x04\x04\x01")) + ext(51, u16(share)))
    with socket.create_connection((addr, int(port)), 2) as s:
        s.sendall(full(name, b""))
        if received(s)[:1] != b"\x16":
            return "no retry"
        again = full(other, b"\0\x1d" + u16(bytes(range(1, 33))))
        s.sendall(CCS + b"\x16\x03\x03" + again[3:])
        return "reached" if received(s)[:1] == b"\x16" else "silence"


def changed(addr, port, name, other):
    """sendfile() of a hello that dies on its way; what is sent again has another name."""
    import os
    from ways import link
    assert len(name) == len(other)
    fd = os.memfd_create("hello")
    size = os.write(fd, hello(sni(name)))
    with socket.create_connection((addr, int(port)), 2) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\0")
        os.sendfile(s.fileno(), fd, 0, size)
        os.pwrite(fd, hello(sni(other)), 0)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"\0")
        return "reached" if other.encode() in received(s, 4) else "silence"


def https(addr, port, name, host):
    """A whole TLS connection and a request on it."""
    ctx = ssl.create_default_context()
    ctx.check_hostname, ctx.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection((addr, int(port)), 2) as raw:
        s = ctx.wrap_socket(raw, server_hostname=name or None)
        s.sendall(b"GET / HTTP/1.1\r\nHost: " + host.encode() + b"\r\nConnection: close\r\n\r\n")
        return statuses(received(s))


def statuses(got):
    found = re.findall(rb"HTTP/1\.[01] (\d{3}) ", got)
    return "HTTP " + ", ".join(f.decode() for f in found) if found else "silence" if not got else "reached"


def http(addr, port, *parts):
    """Requests as they are: \\r, \\n and \\0 may be written out."""
    data = "".join(parts).encode().decode("unicode_escape").encode("latin-1")
    with socket.create_connection((addr, int(port)), 2) as s:
        s.sendall(data)
        return statuses(received(s))


def silent(addr, port):
    with socket.create_connection((addr, int(port)), 2) as s:
        return "reached" if received(s, 0.4) else "silence"


def h2(addr, port, *authorities):
    """Requests over one HTTP/2 connection with prior knowledge (RFC 9113)."""
    return h2_requests(addr, port, [(a, None) for a in authorities])


def h2_path(addr, port, authority, path):
    """One request over HTTP/2 with a :path of any kind."""
    return h2_requests(addr, port, [(authority, path)])


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind, flags, stream, data=b""):
    return struct.pack("!I", len(data))[1:] + struct.pack("!BBI", kind, flags, stream) + data


def h2_flood(addr, port, authority, kind):
    """Frames that say nothing, and then a request."""
    name = b"\x41" + bytes([len(authority)]) + authority.encode()
    asks = b"\x82\x86\x84" + name
    data, stream = frame(4, 0, 0), 1
    if kind == "continuation":  # within the header of the request
        data += frame(1, 1, 1, asks) + frame(9, 0, 1) * 20000 + frame(9, 4, 1)
    elif kind == "reset":
        for stream in range(1, 10001, 2):
            data += frame(1, 5, stream, b"\x82\x86\x84\x01" + name[1:]) + frame(3, 0, stream, struct.pack("!I", 8))
        stream += 2
    else:
        data += {
            "ping": frame(6, 0, 0, b"12345678"),
            "settings": frame(4, 0, 0),
            "window": frame(8, 0, 0, struct.pack("!I", 1)),
            "priority": frame(2, 0, 1, struct.pack("!IB", 3, 1)),
        }[kind] * 20000
    if kind != "continuation":
        data += frame(1, 5, stream, asks)
    return h2_talk(addr, port, data, stream)


def hpack_bomb(addr, port, authority, times):
    """A large field in the decoder's table, named again and again by its index."""
    big = b"\x40\x01x" + b"\x7f" + integer(4000 - 127) + b"y" * 4000
    block = b"\x82\x86\x84\x01" + bytes([len(authority)]) + authority.encode() + big + b"\xbe" * int(times)
    return h2_talk(addr, port, frame(4, 0, 0) + frame(1, 5, 1, block), 1)


def integer(n):
    """The rest of an integer behind its prefix (RFC 7541, 5.1)."""
    out = b""
    while n >= 128:
        out, n = out + bytes([n % 128 + 128]), n // 128
    return out + bytes([n])


def h2_talk(addr, port, data, stream):
    """What becomes of a stream: its status, or how the connection ends."""
    import select, time
    with socket.create_connection((addr, int(port)), 2) as s:
        s.setblocking(False)
        data, got, end = PREFACE + data, b"", time.monotonic() + 15
        while time.monotonic() < end:
            readable, writable, _ = select.select([s], [s] if data else [], [], 0.5)
            try:
                if writable:
                    data = data[s.send(data[:65536]):]
            except OSError:  # ended: what it said before is still to be read
                data = b""
            if readable:
                try:
                    part = s.recv(65536)
                except OSError:
                    part = b""
                if not part:
                    return "h2 ended"
                got += part
            while len(got) >= 9 and len(got) >= 9 + int.from_bytes(got[:3], "big"):
                size, kind = int.from_bytes(got[:3], "big"), got[3]
                payload, got, of = got[9:9 + size], got[9 + size:], int.from_bytes(got[5:9], "big")
                if kind == 7 and int.from_bytes(payload[4:8], "big"):
                    return "h2 calm" if int.from_bytes(payload[4:8], "big") == 11 else "h2 GOAWAY"
                if kind == 3 and of == stream:
                    return "h2 reset"
                if kind == 1 and of == stream:
                    while payload[:1] and payload[0] & 0xe0 == 0x20:  # a table size
                        payload = payload[1:]
                    return "h2 200" if payload[:1] == b"\x88" else "h2 no"
    return "silence"


def header_bomb(addr, port, host, count, size):
    with socket.create_connection((addr, int(port)), 2) as s:
        s.sendall(b"GET / HTTP/1.1\r\nHost: " + host.encode() + b"\r\n" + (b"X: " + b"y" * int(size) + b"\r\n") * int(count) + b"\r\n")
        return statuses(received(s))


def h2_requests(addr, port, requests):
    def field(index, value):  # a literal with an indexed name, not indexed (RFC 7541, 6.2.2)
        return bytes([index, len(value)]) + value.encode()
    with socket.create_connection((addr, int(port)), 2) as s:
        s.sendall(PREFACE + frame(4, 0, 0))
        for i, (a, path) in enumerate(requests):
            s.sendall(frame(1, 5, 2 * i + 1, b"\x82\x86" + (field(4, path) if path else b"\x84") + field(1, a)))
        got = received(s, 2)
    ok = {}
    while len(got) >= 9:
        size, kind, stream = int.from_bytes(got[:3], "big"), got[3], int.from_bytes(got[5:9], "big")
        if kind == 1:
            head = got[9:9 + size]
            while head[:1] and head[0] & 0xe0 == 0x20:  # a table size
                head = head[1:]
            ok[stream] = "200" if head[:1] == b"\x88" else "no"
        elif kind == 3:
            ok[stream] = "reset"
        got = got[9 + size:]
    return "h2 " + ", ".join(ok.get(2 * i + 1, "nothing") for i in range(len(requests)))


def labels(name):
    raw = name.encode().decode("unicode_escape").encode("latin-1")
    return b"".join(bytes([len(l)]) + l for l in raw.rstrip(b".").split(b".") if l) + b"\0"


TYPES = {"A": 1, "NS": 2, "CNAME": 5, "SOA": 6, "NULL": 10, "PTR": 12, "TXT": 16, "AAAA": 28, "SRV": 33, "RRSIG": 46, "DNSKEY": 48,
         "HTTPS": 65, "AXFR": 252, "ANY": 255, "CAA": 257, "PRIVATE": 65300}
RCODES = ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"]


def query(name, kind="A", more=(), opcode=0):
    names = (name,) + tuple(more)
    return struct.pack("!HHHHHH", 0x4711, 0x100 | opcode << 11, len(names), 0, 0, 0) + \
        b"".join(labels(n) + struct.pack("!HH", TYPES[kind], 1) for n in names)


def skip(m, at):
    while m[at]:
        if m[at] >= 0xc0:
            return at + 2
        at += m[at] + 1
    return at + 1


def answers(m):
    """The rcode and the data of the answers."""
    rcode, asked, count = m[3] & 15, struct.unpack_from("!H", m, 4)[0], struct.unpack_from("!H", m, 6)[0]
    at, out = 12, []
    for _ in range(asked):
        at = skip(m, at) + 4
    for _ in range(count):
        at = skip(m, at)
        kind, _, _, size = struct.unpack_from("!HHIH", m, at)
        data = m[at + 10:at + 10 + size]
        at += 10 + size
        if kind in (1, 28):
            out.append(socket.inet_ntop(socket.AF_INET if kind == 1 else socket.AF_INET6, data))
        elif kind == 65:
            out.append("ech" if b"ECHSECRET" in data else "private" if b"PRIVATESECRET" in data else "no ech")
        elif kind != 5:
            out.append("data")
    return RCODES[rcode], out


def exchange(net, server, port, m, source=None):
    if net == "tcp":
        with socket.create_connection((server, int(port)), 2) as s:
            s.sendall(u16(m))
            got = b""
            while len(got) < 2 or len(got) < 2 + struct.unpack_from("!H", got)[0]:
                part = s.recv(65536)
                if not part:
                    raise OSError(104, "closed")
                got += part
            return got[2:]
    with socket.socket(family(server), socket.SOCK_DGRAM) as s:
        s.settimeout(1)
        s.sendto(m, (server, int(port)))
        return s.recv(65536)


def ask(net, server, port, name, kind="A", *more):
    """RCODE and what was answered."""
    rcode, found = answers(exchange(net, server, port, query(name, kind, more)))
    if len(found) > 4:
        return "%s, some addresses" % rcode
    return ", ".join([rcode] + found)


def alias(server, name):
    """Whether the name of an alias tells what the zone's owner wants to say."""
    m = exchange("udp", server, 53, query(name))
    return RCODES[m[3] & 15] + (", data" if b"SECRET" in m.upper() else "")


def many(server, count, zone):
    """Asks for that many names of a zone."""
    good = 0
    for i in range(int(count)):
        good += answers(exchange("udp", server, 53, query("n%d.%s" % (i, zone))))[0] == "NOERROR"
    return "%d of %s" % (good, count)


def update(server, name):
    return answers(exchange("udp", server, 53, query(name, opcode=5)))[0]


def learn(server, *names):
    for n in names:
        for kind in ("A", "AAAA"):
            answers(exchange("udp", server, 53, query(n, kind)))
    return "learned"


def learn_and(server, name, module, function, *args):
    import ways
    learn(server, name)
    return {"ways": vars(ways), "names": globals()}[module][function](*args)


def own_resolver(name, lie):
    """A resolver of the workload's own on loopback, port 53."""
    import threading
    fake = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    fake.bind(("127.0.0.1", 53))

    def serve():
        while True:
            m, who = fake.recvfrom(512)
            fake.sendto(m[:2] + b"\x81\x80\0\x01\0\x01\0\0\0\0" + m[12:] + b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04" + socket.inet_aton(lie), who)
    threading.Thread(target=serve, daemon=True).start()
    got = ask("udp", "127.0.0.1", 53, name)
    return "the lie" if lie in got else "the truth" if got.startswith("NOERROR") else got


def spoofed_answer(resolver, node):
    """Datagrams from the resolver's address to the daemon's side of the node."""
    with socket.socket(family(resolver), socket.SOCK_DGRAM) as s:
        s.setsockopt(socket.IPPROTO_IP, 19, 1)  # IP_TRANSPARENT
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind((resolver, 53))
        for port in (15053, 33000, 40000):
            s.sendto(query("www.googleapis.com"), (node, port))
    return "sent"

