# SPDX-License-Identifier: Apache-2.0
"""A client for the end-to-end tests: does what its arguments say, prints JSON."""
import errno, http.client, json, select, socket, ssl, sys, urllib.error, urllib.request


def urlopen(url):
    with urllib.request.urlopen(url, timeout=15) as r:
        return {"status": r.status, "body": r.read().decode()}


def https(host):
    c = http.client.HTTPSConnection(host, timeout=15, context=ssl.create_default_context())
    c.request("GET", "/")
    r = c.getresponse()
    return {"status": r.status, "body": r.read().decode()}


def family(addr):
    return socket.AF_INET6 if ":" in addr else socket.AF_INET


def connect(addr, port):
    with socket.socket(family(addr), socket.SOCK_STREAM) as s:
        s.settimeout(15)
        s.connect((addr, int(port)))
        return {"peer": s.getpeername()[:2]}


def nonblocking(addr, port):
    """As event loops do: EINPROGRESS or an error, poll, SO_ERROR."""
    with socket.socket(family(addr), socket.SOCK_STREAM) as s:
        s.setblocking(False)
        e = s.connect_ex((addr, int(port)))
        if e == errno.EINPROGRESS:
            p = select.poll()
            p.register(s, select.POLLOUT)
            if not p.poll(15000):
                raise TimeoutError("poll")
            e = s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if e:
            raise OSError(e, errno.errorcode[e])
        return {"peer": s.getpeername()[:2]}


def lookup(name):
    return {"addrs": sorted({a[4][0] for a in socket.getaddrinfo(name, 80, type=socket.SOCK_STREAM)})}


def bypass(addr, addr6, allowed):
    """Ways around connect(): each says "sent", or the name of its error."""
    mapped = "::ffff:" + addr
    payload = b"GET / HTTP/1.0\r\n\r\n"

    def raw():
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as s:
            s.sendto(b"\x08\x00\xf7\xff\x00\x00\x00\x00", (addr, 0))

    def raw6():
        with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as s:
            s.sendto(b"\x80\x00\x00\x00\x00\x00\x00\x00", (addr6, 0))

    def rawtcp():
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as s:
            s.sendto(b"\x45\x00\x00\x14\x00\x01\x00\x00\x40\x06\x00\x00\x00\x00\x00\x00"
                     + socket.inet_aton(addr), (addr, 0))

    def ping():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as s:
            s.sendto(b"\x08\x00\xf7\xff\x00\x00\x00\x00", (addr, 0))

    def udplite():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 136) as s:
            s.sendto(b"x", (addr, 443))

    def fastopen():
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s:
            s.sendto(payload, socket.MSG_FASTOPEN, (addr, 80))

    def fastopen_connect():
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s:
            s.setsockopt(socket.IPPROTO_TCP, 30, 1)  # TCP_FASTOPEN_CONNECT
            s.connect((addr, 80))
            s.send(payload)

    def mptcp():
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262) as s:
            s.connect((addr, 80))

    def udp_sendto():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.sendto(b"x", (addr, 443))

    def udp_sendto6():
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as s:
            s.sendto(b"x", (addr6, 443))

    def udp_mapped():
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as s:
            s.sendto(b"x", (mapped, 443))

    def udp_elsewhere():
        """Connected to one address, sends to another."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.connect((allowed, 53))
            s.sendto(b"x", (addr, 443))

    def udp_reconnect():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.connect((allowed, 53))
            s.connect((addr, 443))
            s.send(b"x")

    def marked():
        """A mark is no licence."""
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 0x1337)
            s.connect((addr, 80))

    def other_dns_port():
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s:
            s.connect((addr, 853))

    out = {}
    for f in (raw, raw6, rawtcp, ping, udplite, fastopen, fastopen_connect, mptcp, udp_sendto, udp_sendto6,
              udp_mapped, udp_elsewhere, udp_reconnect, marked, other_dns_port):
        try:
            f()
            out[f.__name__] = "sent"
        except OSError as e:
            out[f.__name__] = errno.errorcode.get(e.errno, str(e))
    return {"ways": out}


try:
    out = globals()[sys.argv[1]](*sys.argv[2:])
except urllib.error.URLError as e:
    e = e.reason
    out = {"error": str(e), "errno": getattr(e, "errno", None) or 0, "type": type(e).__name__}
except OSError as e:
    out = {"error": str(e), "errno": e.errno or 0, "type": type(e).__name__}
print(json.dumps(out))
