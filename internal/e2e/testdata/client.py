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


try:
    out = globals()[sys.argv[1]](*sys.argv[2:])
except urllib.error.URLError as e:
    e = e.reason
    out = {"error": str(e), "errno": getattr(e, "errno", None) or 0, "type": type(e).__name__}
except OSError as e:
    out = {"error": str(e), "errno": e.errno or 0, "type": type(e).__name__}
print(json.dumps(out))
