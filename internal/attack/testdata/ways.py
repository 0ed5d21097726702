# SPDX-License-Identifier: Apache-2.0
"""Sockets of every kind."""
import ctypes, errno, fcntl, mmap, os, select, socket, struct, time
from socket import AF_INET, AF_INET6, SOCK_DGRAM, SOCK_RAW, SOCK_STREAM

HTTP = b"GET / HTTP/1.0\r\n\r\n"
libc = ctypes.CDLL(None, use_errno=True)


def family(addr):
    return AF_INET6 if ":" in addr else AF_INET


def checked(result):
    if result < 0:
        e = ctypes.get_errno()
        raise OSError(e, os.strerror(e))
    return result


def connect(addr, port, sock=None):
    """Tries for a second."""
    s = sock or socket.socket(family(addr), SOCK_STREAM)
    s.settimeout(1)
    s.connect((addr, int(port)))
    return "connected"


def nonblocking(addr, port):
    s = socket.socket(family(addr), SOCK_STREAM)
    s.setblocking(False)
    e = s.connect_ex((addr, int(port)))
    if e == errno.EINPROGRESS:
        select.select([], [s], [], 1)
        e = s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return errno.errorcode[e] if e else "connected"


def knock(addr, port):
    """Sends a SYN and doesn't wait for what nobody will answer."""
    s = socket.socket(family(addr), SOCK_STREAM)
    s.setblocking(False)
    e = s.connect_ex((addr, int(port)))
    return "sent" if e == errno.EINPROGRESS else errno.errorcode[e]


def fastopen(addr, port):
    with socket.socket(family(addr), SOCK_STREAM) as s:
        s.sendto(HTTP, socket.MSG_FASTOPEN, (addr, int(port)))
    return "sent"


def fastopen_connect(addr, port):
    with socket.socket(family(addr), SOCK_STREAM) as s:
        s.setsockopt(socket.IPPROTO_TCP, 30, 1)  # TCP_FASTOPEN_CONNECT
        s.connect((addr, int(port)))
        s.send(HTTP)
    return "sent"


def option(addr, port, level, opt, value):
    """connect() with a socket option set: a mark, a device."""
    s = socket.socket(family(addr), SOCK_STREAM)
    s.setsockopt(int(level), int(opt), int(value) if value.isdigit() else value.encode() + b"\0")
    return connect(addr, port, s)


def as_user(addr, port, uid):
    os.setgid(int(uid))
    os.setuid(int(uid))
    return connect(addr, port)


def protocol(addr, port, kind, proto):
    with socket.socket(family(addr), int(kind), int(proto)) as s:
        if int(kind) == SOCK_STREAM or int(kind) == 6:  # SOCK_DCCP
            s.setblocking(False)
            try:
                s.connect((addr, int(port)))
            except BlockingIOError:
                pass
        else:  # what a ping socket takes, and others as well
            s.sendto(b"\x08\0\xf7\xff\0\0\0\0", (addr, int(port)))
    return "sent"


def raw(addr, proto):
    v6 = ":" in addr
    packet = (b"\x80" if v6 else b"\x08") + b"\0\xf7\xff\0\0\0\0"
    with socket.socket(family(addr), SOCK_RAW, int(proto)) as s:
        s.sendto(packet, (addr, 0))
    return "sent"


def crafted(addr, inner=6):
    """An IPv4 header of its own: a SYN."""
    return struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40, 1, 0, 64, inner, 0, b"\0" * 4, socket.inet_aton(addr)) + \
        struct.pack("!HHIIBBHHH", 4444, 443, 1, 0, 0x50, 2, 1024, 0, 0)


def hdrincl(addr):
    with socket.socket(AF_INET, SOCK_RAW, socket.IPPROTO_RAW) as s:
        s.sendto(crafted(addr), (addr, 0))
    return "sent"


def hdrincl6(addr):
    head = struct.pack("!IHBB16s16s", 6 << 28, 8, 17, 64, socket.inet_pton(AF_INET6, "2001:db8:5::10"),
                       socket.inet_pton(AF_INET6, addr)) + struct.pack("!HHHH", 4444, 443, 8, 0)
    with socket.socket(AF_INET6, SOCK_RAW, socket.IPPROTO_RAW) as s:
        s.sendto(head, (addr, 0))
    return "sent"


def link():
    return [n for _, n in socket.if_nameindex() if n != "lo"][0]


def packet(addr, bypass="0", device=""):
    """A frame past the whole IP stack, by the uplink or another interface."""
    with socket.socket(socket.AF_PACKET, SOCK_DGRAM, 0) as s:
        if bypass == "1":
            s.setsockopt(263, 20, 1)  # SOL_PACKET, PACKET_QDISC_BYPASS
        s.sendto(crafted(addr), (device or link(), 0x0800, 0, 0, b"\xff" * 6))
    return "sent"


def summed(data):
    """The checksum of RFC 1071."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total > 0xffff:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


def frame(kind, src, dst, mac, bypass="0"):
    """A frame to the router whose hardware address is mac, past the IP stack."""
    v6 = family(dst) == AF_INET6
    a, b = (socket.inet_pton(family(dst), x) for x in (src, dst))
    proto, fragment, options = 17, 0, b""
    inner = struct.pack("!HHHH", 4444, 443, 12, 0) + b"data"
    if kind in ("syn", "middle"):
        proto, flags = 6, 2 if kind == "syn" else 0x18
        inner = struct.pack("!HHIIBBHHH", 4444, 443, 1, 1, 0x50, flags, 1024, 0, 0) + (b"data" if kind == "middle" else b"")
    elif kind == "ping":
        proto, inner = (58, b"\x80\0\0\0\0\1\0\1data") if v6 else (1, b"\x08\0\0\0\0\1\0\1data")
    elif kind == "gre":
        proto, inner = 47, b"\0\0\x08\0" + inner
    elif kind == "fragment":
        fragment = 1  # 8 bytes into a datagram that never began
    elif kind == "options":
        options = b"\1\1\1\0"
    at = {6: 16, 17: 6, 58: 2, 1: 2}.get(proto)
    if at:
        pseudo = b"" if proto == 1 else a + b + struct.pack("!II", len(inner), proto)
        inner = inner[:at] + struct.pack("!H", summed(pseudo + inner)) + inner[at + 2:]
    if v6:
        if kind == "options":
            proto, inner = 60, bytes([proto, 0, 1, 4, 0, 0, 0, 0]) + inner
        if kind == "fragment":
            proto, inner = 44, struct.pack("!BBHI", proto, 0, 8, 1) + inner
        ip = struct.pack("!IHBB", 6 << 28, len(inner), proto, 64) + a + b
    else:
        ip = struct.pack("!BBHHHBBH", 0x45 + len(options) // 4, 0, 20 + len(options) + len(inner), 1, fragment, 64, proto, 0) + a + b + options
        ip = ip[:10] + struct.pack("!H", summed(ip)) + ip[12:]
    with socket.socket(socket.AF_PACKET, SOCK_DGRAM, 0) as s:
        if bypass == "1":
            s.setsockopt(263, 20, 1)  # SOL_PACKET, PACKET_QDISC_BYPASS
        s.sendto(ip + inner, (link(), 0x86dd if v6 else 0x0800, 0, 0, bytes.fromhex(mac.replace(":", ""))))
    return "sent"


def packet_as(addr, uid):
    os.setgid(int(uid))
    os.setuid(int(uid))
    return packet(addr)


def family_only(fam, kind, proto="0"):
    with socket.socket(int(fam), int(kind), int(proto)):
        return "created"


def udp(addr, port):
    with socket.socket(family(addr), SOCK_DGRAM) as s:
        s.sendto(b"x", (addr, int(port)))
    return "sent"


def group(addr, how="plain"):
    """Joins a multicast group: the kernel tells the link, with the address as data."""
    index = struct.pack("=I", socket.if_nametoindex(link()))
    with socket.socket(family(addr), SOCK_DGRAM) as s:
        raw = socket.inet_pton(family(addr), addr)
        at = struct.pack("=H", family(addr)) + (b"\0\0" + raw if len(raw) == 4 else b"\0" * 6 + raw)
        level = socket.IPPROTO_IP if len(raw) == 4 else socket.IPPROTO_IPV6
        if how == "group_req":  # MCAST_JOIN_GROUP
            s.setsockopt(level, 42, index + b"\0" * 4 + at.ljust(128, b"\0"))
        elif how == "source":  # MCAST_JOIN_SOURCE_GROUP, with an address as data
            s.setsockopt(level, 46, index + b"\0" * 4 + at.ljust(128, b"\0") * 2)
        elif len(raw) == 4:
            s.setsockopt(level, socket.IP_ADD_MEMBERSHIP, raw + b"\0" * 4 + index)
        else:
            s.setsockopt(level, socket.IPV6_JOIN_GROUP, raw + index)
    return "joined"


def broadcast(addr, port):
    with socket.socket(AF_INET, SOCK_DGRAM) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        s.sendto(b"x", (addr, int(port)))
    return "sent"


def udp_connected(addr, port):
    with socket.socket(family(addr), SOCK_DGRAM) as s:
        s.connect((addr, int(port)))
        s.send(b"x")
    return "sent"


def udp_after(how, addr, port):
    """Connected to an address that only TCP may go to; then something that makes the
    hooks speak of another one, and the datagram."""
    with socket.socket(family(addr), SOCK_DGRAM) as s:
        s.connect((addr, int(port)))
        lo = "127.0.0.1" if s.family == AF_INET else "::1"
        if how == "dns":
            s.sendto(question("www.googleapis.com", 1), (addr, 53))
        elif how == "loopback":
            try:
                s.sendto(b"x", (lo, 9))
            except PermissionError:
                pass  # by another source than loopback's; what counts is the hook
        else:  # a connect() that fails behind its hook
            libc.connect(s.fileno(), struct.pack("=H", 99) + bytes(sockaddr(lo, 9))[2:], 28 if s.family == AF_INET6 else 16)
        s.send(b"x")
    return "sent"


def dns_by_device(addr, port):
    """Anything to port 53, by the uplink: it is addressed to the DNS proxy."""
    with socket.socket(family(addr), SOCK_DGRAM) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, link().encode() + b"\0")
        s.sendto(b"LEAK", (addr, int(port)))
    return "sent"


def udp_elsewhere(first, fport, addr, port):
    """Connected to one address, sends to another."""
    with socket.socket(family(addr), SOCK_DGRAM) as s:
        s.connect((first, int(fport)))
        s.sendto(b"x", (addr, int(port)))
    return "sent"


def udp_reconnect(first, fport, addr, port):
    with socket.socket(family(addr), SOCK_DGRAM) as s:
        s.connect((first, int(fport)))
        s.send(b"x")
        s.connect((addr, int(port)))
        s.send(b"x")
    return "sent"


def udp_batch(first, fport, addr, port):
    """sendmmsg(): the second datagram goes elsewhere."""
    class iovec(ctypes.Structure):
        _fields_ = [("base", ctypes.c_char_p), ("len", ctypes.c_size_t)]

    class msghdr(ctypes.Structure):
        _fields_ = [("name", ctypes.c_char_p), ("namelen", ctypes.c_uint), ("iov", ctypes.POINTER(iovec)),
                    ("iovlen", ctypes.c_size_t), ("control", ctypes.c_void_p), ("controllen", ctypes.c_size_t),
                    ("flags", ctypes.c_int)]

    class mmsghdr(ctypes.Structure):
        _fields_ = [("head", msghdr), ("len", ctypes.c_uint)]
    io = iovec(b"x", 1)
    batch = (mmsghdr * 2)()
    for m, at in zip((b.head for b in batch), (sockaddr(first, fport), sockaddr(addr, port))):
        m.name, m.namelen, m.iov, m.iovlen = at, len(at), ctypes.pointer(io), 1
    with socket.socket(family(addr), SOCK_DGRAM) as s:
        sent = checked(libc.sendmmsg(s.fileno(), batch, 2, 0))
    return "%d of 2" % sent


def reused(first, fport, addr, port):
    """connect(AF_UNSPEC), and the same socket again."""
    s = socket.socket(family(addr), SOCK_STREAM)
    connect(first, fport, s)
    checked(libc.connect(s.fileno(), b"\0" * 16, 16))
    return connect(addr, port, s)


def sockaddr(addr, port):
    if ":" in addr:
        return struct.pack("=H", AF_INET6) + struct.pack("!HI", int(port), 0) + socket.inet_pton(AF_INET6, addr) + b"\0" * 4
    return struct.pack("=H", AF_INET) + struct.pack("!H", int(port)) + socket.inet_aton(addr) + b"\0" * 8


def uring(addr, port, flags="0"):
    """connect() as an io_uring request; flags 2: submitted by the kernel's thread."""
    params = bytearray(120)
    struct.pack_into("=I", params, 8, int(flags))
    struct.pack_into("=I", params, 16, 100)
    fd = checked(libc.syscall(425, 4, (ctypes.c_char * 120).from_buffer(params)))
    sq, cq = struct.unpack_from("=7I", params, 40), struct.unpack_from("=6I", params, 80)
    rings = mmap.mmap(fd, 4096, offset=0)
    entries = mmap.mmap(fd, 4096, offset=0x10000000)
    at = ctypes.create_string_buffer(sockaddr(addr, port))
    s = socket.socket(family(addr), SOCK_STREAM)
    struct.pack_into("=BBHiQQ", entries, 0, 16, 0, 0, s.fileno(), len(at) - 1, ctypes.addressof(at))
    struct.pack_into("=I", rings, sq[6], 0)
    struct.pack_into("=I", rings, sq[1], 1)
    checked(libc.syscall(426, fd, 1, 1, 1 | int(flags), None, 0))  # GETEVENTS, SQ_WAKEUP
    result = struct.unpack_from("=i", rings, cq[5] + 8)[0]
    return errno.errorcode[-result] if result else "connected"


def source_route(hop, addr, port, kind):
    """Dials addr; the packets go to hop first (RFC 791, loose source route)."""
    with socket.socket(AF_INET, int(kind)) as s:
        s.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"\x83\x07\x04" + socket.inet_aton(hop) + b"\0")
        if int(kind) == SOCK_STREAM:
            s.settimeout(0.4)
            s.connect((addr, int(port)))
        else:
            s.sendto(b"x", (addr, int(port)))
    return "sent"


def routing_header(hop, addr, port):
    """The same for IPv6: a segment routing header (RFC 8754)."""
    segments = socket.inet_pton(AF_INET6, addr) + socket.inet_pton(AF_INET6, hop)
    with socket.socket(AF_INET6, SOCK_DGRAM) as s:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RTHDR, struct.pack("!BBBBBBH", 0, 4, 4, 1, 1, 0, 0) + segments)
        s.sendto(b"x", (addr, int(port)))
    return "sent"


def extension(addr, port):
    """A destination option in front of UDP."""
    with socket.socket(AF_INET6, SOCK_DGRAM) as s:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, b"\0\0\x01\x04\0\0\0\0")
        s.sendto(b"x", (addr, int(port)))
    return "sent"


def forged_peer(addr, port):
    """Makes the stranger seem to have asked first: a datagram over loopback
    whose source is the stranger's address. No privilege for IPv6."""
    v6 = ":" in addr
    server = socket.socket(family(addr), SOCK_DGRAM)
    server.bind(("::" if v6 else "0.0.0.0", 0))
    server.settimeout(1)
    with socket.socket(family(addr), SOCK_DGRAM) as s:
        if v6:
            s.setsockopt(socket.IPPROTO_IPV6, 78, 1)  # IPV6_FREEBIND
        else:
            s.setsockopt(socket.IPPROTO_IP, 19, 1)  # IP_TRANSPARENT
        s.bind((addr, int(port)))
        s.sendto(b"hello", ("::1" if v6 else "127.0.0.1", server.getsockname()[1]))
    _, peer = server.recvfrom(16)
    server.sendto(b"secret", peer)
    return "sent"


def device_loopback(addr, port):
    """A loopback address by the uplink: the next hop gets it."""
    with socket.socket(family(addr), SOCK_DGRAM) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, link().encode() + b"\0")
        s.sendto(b"x", (addr, int(port)))
    return "sent"


def join(cgroup):
    with open(cgroup + "/cgroup.procs", "w") as f:
        f.write(str(os.getpid()))


def in_child(f):
    """What f says in a child process."""
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        from attack import name
        try:
            out = f()
        except OSError as e:
            out = name(e)
        os.write(w, out.encode())
        os._exit(0)
    os.close(w)
    os.waitpid(pid, 0)
    return os.read(r, 1000).decode()


def passed_in(outside, addr, port, when):
    """A socket that a process outside made, and with when=after connected."""
    a, b = socket.socketpair(socket.AF_UNIX)

    def give():
        join(outside)
        s = socket.socket(family(addr), SOCK_STREAM)
        if when == "after":
            connect(addr, port, s)
        socket.send_fds(a, [b"x"], [s.fileno()])
        return ""
    in_child(give)
    s = socket.socket(fileno=socket.recv_fds(b, 1, 1)[1][0])
    if when == "after":
        s.settimeout(1)
        s.send(HTTP)
        return "answered" if s.recv(1) else "closed"
    return connect(addr, port, s)


def passed_out(outside, addr, port):
    """A captured socket, connected by a process outside."""
    a, b = socket.socketpair(socket.AF_UNIX)
    s = socket.socket(family(addr), SOCK_STREAM)
    socket.send_fds(a, [b"x"], [s.fileno()])

    def take():
        join(outside)
        return connect(addr, port, socket.socket(fileno=socket.recv_fds(b, 1, 1)[1][0]))
    return in_child(take)


def moved(outside, addr, port, when):
    """Leaves the cgroup, before or after it makes its socket."""
    def go():
        s = socket.socket(family(addr), SOCK_STREAM)
        join(outside)
        return connect(addr, port, s if when == "after" else None)
    return in_child(go)


def left(uid, cgroup, addr, port):
    """Leaves the cgroup without any privilege."""
    os.setgroups([])
    os.setgid(int(uid))
    os.setuid(int(uid))
    join(cgroup)
    return connect(addr, port)


def by_setuid(uid, program, cgroup, addr, port):
    """Leaves the cgroup by a setuid program that writes what it is told."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(int(uid))
        os.setuid(int(uid))
    import subprocess
    subprocess.run([program, cgroup + "/cgroup.procs"], input=str(os.getpid()).encode(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return connect(addr, port)


def storm(count, how):
    """Makes many denials, of one kind or of many."""
    s, t = socket.socket(socket.AF_INET, SOCK_DGRAM), socket.socket(socket.AF_INET6, SOCK_DGRAM)
    for i in range(int(count)):
        n = i if how == "many" else 0
        for sock, addr in ((s, "10.9.%d.%d" % (n // 256 % 256, n % 256)), (t, "2001:db8:9::%x:%x" % (n // 65536, n % 65536))):
            try:
                sock.sendto(b"x", (addr, 9))
            except OSError:
                pass
    return "done"


def new_netns(addr, port):
    checked(libc.unshare(0x40000000))
    return connect(addr, port)


def other_netns(path, addr, port):
    enter(path)
    return connect(addr, port)


def bind(kind, addr, port):
    with socket.socket(family(addr), SOCK_STREAM if kind == "tcp" else SOCK_DGRAM) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind((addr, int(port)))
    return "bound"


def unbound(kind, port):
    """Takes a port without bind(): the range that the kernel chooses from has one."""
    s = socket.socket(AF_INET6, SOCK_STREAM) if kind == "tcp" else socket.socket(AF_INET, SOCK_DGRAM)
    if kind == "tcp":  # nothing of IPv4 lingers there
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    s.setsockopt(socket.IPPROTO_IP, 51, struct.pack("=I", int(port) << 16 | int(port)))  # IP_LOCAL_PORT_RANGE
    if kind == "tcp":
        s.listen()
    else:
        s.sendto(b"x", ("127.0.0.1", 9))
    return "bound" if s.getsockname()[1] == int(port) else "another port"


def crowd(addr, port, count, to, toport):
    """Many connections that say nothing, and then another way out."""
    import resource
    resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))
    held = []
    for _ in range(int(count)):
        s = socket.socket(family(addr), SOCK_STREAM)
        s.setblocking(False)
        s.connect_ex((addr, int(port)))
        held.append(s)
    import names
    from attack import name
    try:
        out = connect(to, toport)
    except OSError as e:
        out = name(e)
    return out + ", others: " + names.http(addr, port, "GET / HTTP/1.1\\r\\nHost: www.googleapis.com\\r\\n\\r\\n")


def deputy(addr, port):
    """Asks a forwarder on loopback that is not captured."""
    s = socket.create_connection(("127.0.0.1", int(port)), 1)
    s.sendall(b"GET / HTTP/1.1\r\nHost: stranger.example\r\nConnection: close\r\n\r\n")
    s.settimeout(2)
    return "answered" if s.recv(1) else "closed"


def pidfd(outside, addr, port):
    """Takes a socket out of another process: pidfd_getfd()."""
    r, w = os.pipe()
    ready, done = os.pipe()
    pid = os.fork()
    if pid == 0:
        join(outside)
        s = socket.socket(family(addr), SOCK_STREAM)
        os.write(done, bytes([s.fileno()]))
        os.close(w)
        os.read(r, 1)
        os._exit(0)
    theirs = os.read(ready, 1)[0]
    fd = checked(libc.syscall(438, checked(libc.syscall(434, pid, 0)), theirs, 0))
    try:
        return connect(addr, port, socket.socket(fileno=fd))
    finally:
        os.close(w)
        os.waitpid(pid, 0)


def uring_send(addr, port):
    """sendto() as an io_uring request."""
    params = bytearray(120)
    fd = checked(libc.syscall(425, 4, (ctypes.c_char * 120).from_buffer(params)))
    sq, cq = struct.unpack_from("=7I", params, 40), struct.unpack_from("=6I", params, 80)
    rings = mmap.mmap(fd, 4096, offset=0)
    entries = mmap.mmap(fd, 4096, offset=0x10000000)
    at, data = ctypes.create_string_buffer(sockaddr(addr, port)), ctypes.create_string_buffer(b"x")
    s = socket.socket(family(addr), SOCK_DGRAM)
    # IORING_OP_SEND with the address in addr2 and its length in file_index.
    struct.pack_into("=BBHiQQIIQHHiQ", entries, 0, 26, 0, 0, s.fileno(), ctypes.addressof(at), ctypes.addressof(data),
                     1, 0, 0, 0, 0, len(at) - 1, 0)
    struct.pack_into("=I", rings, sq[6], 0)
    struct.pack_into("=I", rings, sq[1], 1)
    checked(libc.syscall(426, fd, 1, 1, 1, None, 0))
    result = struct.unpack_from("=i", rings, cq[5] + 8)[0]
    return errno.errorcode[-result] if result < 0 else "sent"


def corked(first, fport, addr, port):
    """MSG_MORE to an allowed server, the rest elsewhere: one datagram."""
    with socket.socket(family(addr), SOCK_DGRAM) as s:
        s.sendto(b"a", socket.MSG_MORE, (first, int(fport)))
        s.sendto(b"b", (addr, int(port)))
    return "sent"


def tunnelled(addr):
    """A tunnel device of the attacker's own, with CAP_NET_ADMIN."""
    import subprocess
    def ip(*args):
        if subprocess.run(("ip",) + args, stderr=subprocess.DEVNULL).returncode:
            raise OSError(errno.ENOSYS, "ip")
    ip("link", "add", "tun9", "type", "vxlan", "id", "9", "remote", addr, "dstport", "4789")
    try:
        ip("link", "set", "tun9", "up")
        time.sleep(0.1)
        with socket.socket(socket.AF_PACKET, SOCK_DGRAM, 0) as s:
            s.sendto(crafted(addr), ("tun9", 0x0800, 0, 0, b"\xff" * 6))
    finally:
        ip("link", "del", "tun9")
    return "sent"


def tun_peer(addr, port):
    """The stranger seems to ask first, through a tun device."""
    tun = os.open("/dev/net/tun", os.O_RDWR)
    ifr = struct.pack("16sH22x", b"tun8", 0x1001)  # IFF_TUN, IFF_NO_PI
    fcntl.ioctl(tun, 0x400454CA, ifr)  # TUNSETIFF
    server = socket.socket(AF_INET, SOCK_DGRAM)
    server.bind(("0.0.0.0", 0))
    server.settimeout(1)
    fcntl.ioctl(server, 0x8914, struct.pack("16sH22x", b"tun8", 0x41))  # SIOCSIFFLAGS: up
    udp = struct.pack("!HHHH", int(port), server.getsockname()[1], 13, 0) + b"hello"
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0, socket.inet_aton(addr), socket.inet_aton("198.51.100.10"))
    words = sum(struct.unpack("!10H", head))
    words = (words & 0xffff) + (words >> 16)
    head = head[:10] + struct.pack("!H", ~(words + (words >> 16)) & 0xffff) + head[12:]
    os.write(tun, head + udp)
    _, peer = server.recvfrom(16)
    server.sendto(b"secret", peer)
    return "sent"


def same_tuple(addr, port, lo, loport):
    """A source port that egressd knows, and then egressd's listener."""
    s = socket.socket(family(addr), SOCK_STREAM)
    connect(addr, port, s)
    at = s.getsockname()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()
    s = socket.socket(family(lo), SOCK_STREAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((lo, at[1]))
    return connect(lo, loport, s)


def everything(addr, addr6):
    """Dials and sends until its standard input ends; says whether anything worked."""
    worked, rounds = 0, 0
    print("ready", flush=True)
    while not select.select([0], [], [], 0)[0]:
        rounds += 1
        for f, a in ((knock, addr), (knock, addr6), (udp, addr), (udp, addr6), (fastopen, addr)):
            try:
                worked += f(a, 443) == "sent"
            except OSError:
                pass
        time.sleep(0.002)
    return "%s of %s" % ("some" if worked else "none", "many" if rounds > 20 else rounds)


def hold(kind, addr, port, first=""):
    """Holds a connection; each line of its standard input is one try."""
    import sys
    from attack import name
    types = {"udp": (SOCK_DGRAM, 0), "udp-loopback": (SOCK_DGRAM, 0), "udp-dns": (SOCK_DGRAM, 0), "raw": (SOCK_RAW, 1), "ping": (SOCK_DGRAM, 1), "unconnected": (SOCK_DGRAM, 0)}
    s = socket.socket(family(addr), *types.get(kind, (SOCK_STREAM, 0)))
    s.settimeout(2)
    if kind != "unconnected":
        s.connect((addr, int(port)))
    if kind == "tls":
        import ssl
        ctx = ssl.create_default_context()
        ctx.check_hostname, ctx.verify_mode = False, ssl.CERT_NONE
        s = ctx.wrap_socket(s, server_hostname=first)
    print("open", flush=True)
    for _ in sys.stdin:
        try:
            if kind in ("raw", "ping"):
                s.send(b"\x08\0\xf7\xff\0\0\0\0")
            elif kind == "unconnected":
                s.sendto(b"x", (addr, int(port)))
            elif kind.startswith("udp-"):
                if kind == "udp-loopback":
                    try:
                        s.sendto(b"x", ("127.0.0.1", 9))
                    except PermissionError:
                        pass  # by another source than loopback's; what counts is the hook
                elif kind == "udp-dns":
                    s.sendto(question("www.googleapis.com", 1), ("8.8.8.8", 53))
                s.send(b"x")
            else:
                s.sendall(b"GET / HTTP/1.1\r\nHost: " + first.encode() + b"\r\n\r\n" if first else b"x")
            print("answered" if s.recv(65536) else "closed", flush=True)
        except OSError as e:
            print(name(e), flush=True)
    return ""


def squat(port, dns):
    """Listens where egressd does, until its standard input ends."""
    import sys
    for at in (("127.0.0.1", AF_INET), ("::1", AF_INET6)):
        for p, kind in ((port, SOCK_STREAM), (dns, SOCK_STREAM), (dns, SOCK_DGRAM)):
            s = socket.socket(at[1], kind)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind((at[0], int(p)))
            if kind == SOCK_STREAM:
                s.listen()
            held.append(s)
    print("open", flush=True)
    sys.stdin.read()
    return ""


held = []


def everything_for(seconds):
    time.sleep(float(seconds))
    return ""


def enter(path):
    with open(path) as f:
        checked(libc.setns(f.fileno(), 0x40000000))


def udp_from(path, addr, port):
    enter(path)
    return udp(addr, port)


def tls_from(path, addr, port, sni):
    import names
    enter(path)
    return names.https(addr, port, sni, sni)


def question(name, number):
    """A DNS question for an address."""
    labels = b"".join(bytes([len(l)]) + l.encode() for l in name.split("."))
    return struct.pack("!HHHHHH", number, 0x100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", 1, 1)


def steal(victim, forger, addr, port, allowed):
    """Sends from the address and port that another pod's socket asks from, for as
    long as that has a question open."""
    enter(victim)
    theirs = socket.socket(family(addr), SOCK_DGRAM)
    theirs.connect((addr, int(port)))
    theirs.settimeout(3)
    enter(forger)
    with socket.socket(family(addr), SOCK_DGRAM) as s:
        if ":" in addr:
            s.setsockopt(socket.IPPROTO_IPV6, 78, 1)  # IPV6_FREEBIND
        else:
            s.setsockopt(socket.IPPROTO_IP, 19, 1)  # IP_TRANSPARENT
        s.bind(theirs.getsockname()[:2])
        s.connect((addr, int(port)))
        for number in range(200):
            try:
                s.send(question("steal.stranger.example", number))
            except PermissionError:
                pass
    try:
        theirs.send(question(allowed, 4711))
        while True:
            got = theirs.recv(4096)
            if got[:2] == struct.pack("!H", 4711):
                return "kept" if got[6:8] != b"\0\0" else "other answer"
    except OSError:
        return "taken"


def hoard(addr, port, count, to, toport):
    """Many sockets that asked something and stay open, and then one more."""
    import resource
    room = int(count) + 64
    resource.setrlimit(resource.RLIMIT_NOFILE, (room, room))
    held = []
    for _ in range(int(count)):
        s = socket.socket(family(addr), SOCK_DGRAM)
        held.append(s)
        try:
            s.connect((addr, int(port)))
            s.send(b"x")
        except (ConnectionRefusedError, PermissionError):
            break
    return connect(to, toport)


def anew(path, kind, addr, port):
    """A cgroup of one name is made 50 times; its process's first act is to send."""
    seen = set()
    for _ in range(50):
        os.mkdir(path)
        pid = os.fork()
        if pid == 0:
            code = 0
            try:
                with open(path + "/cgroup.procs", "w") as f:
                    f.write("0")
                s = socket.socket(family(addr), SOCK_STREAM if kind == "tcp" else SOCK_DGRAM)
                s.settimeout(1)
                s.connect((addr, int(port))) if kind == "tcp" else s.sendto(HTTP, (addr, int(port)))
            except OSError as e:
                code = e.errno or errno.ETIMEDOUT
            finally:
                os._exit(code)
        e = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        seen.add(errno.errorcode[e] if e else "sent")
        while True:
            try:
                os.rmdir(path)
                break
            except OSError as busy:  # its process is still on its way out
                if busy.errno != errno.EBUSY:
                    raise
    return " and ".join(sorted(seen))
