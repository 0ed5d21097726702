# A service that leaves its connections with its manager, is started anew in a new
# cgroup of the same name, and gets them back (systemd's FDSTORE=1).
# usage: store.py CGROUP IPV4 IPV6 PORT; prints "ready", waits for a line, and
# prints which of the connections still work.
import errno, json, os, socket, sys, time

path, v4, v6, port = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
kinds = [(family, kind, to) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM) for family, to in ((socket.AF_INET, v4), (socket.AF_INET6, v6))]

def enter():
    with open(path + "/cgroup.procs", "w") as f:
        f.write("0")

def echo(s, text):
    try:
        s.send(text)
        return s.recv(64) == text
    except OSError:
        return False

def remove():
    until = time.monotonic() + 10
    while True:
        try:
            return os.rmdir(path)
        except OSError as e:
            if e.errno != errno.EBUSY or time.monotonic() > until:
                raise
            time.sleep(0.001)

here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
os.mkdir(path)
pid = os.fork()
if pid == 0:
    enter()
    held = []
    for family, kind, to in kinds:
        s = socket.socket(family, kind)
        s.settimeout(3)
        s.connect((to, port))
        held.append(s)
    socket.send_fds(there, [json.dumps([echo(s, b"one") for s in held]).encode()], [s.fileno() for s in held])
    os._exit(0)
said, fds, _, _ = socket.recv_fds(here, 64, len(kinds))
os.waitpid(pid, 0)
assert json.loads(said) == [True] * len(kinds), said
remove()
os.mkdir(path)
pid = os.fork()
if pid == 0:
    enter()
    held = [socket.socket(family, kind, fileno=fd) for (family, kind, _), fd in zip(kinds, fds)]
    for s in held:
        s.settimeout(3)
    assert all([echo(s, b"two") for s in held])
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps([echo(s, b"three") for s in held]), flush=True)
    os._exit(0)
for fd in fds:
    os.close(fd)
os.waitpid(pid, 0)
remove()
