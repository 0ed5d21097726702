# Makes cgroups anew, again and again, each with a process whose first act is to
# send. usage: again.py COUNT CGROUP IPV4 IPV6 [INTERFACE]; CGROUP's last two levels
# are made and removed when its name ends in "//". Prints how often each act went
# through.
import ctypes, errno, json, os, signal, socket, struct, sys, time

count, path, v4, v6 = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
interface = sys.argv[5] if len(sys.argv) > 5 else ""
deep = path.endswith("//")
path = path.rstrip("/")
levels = [os.path.dirname(path), path] if deep else [path]
libc = ctypes.CDLL(None, use_errno=True)
PORT = 443

def tcp(family, to):
    s = socket.socket(family, socket.SOCK_STREAM)
    s.settimeout(5)
    s.connect((to, PORT))

def udp(family, to):
    socket.socket(family, socket.SOCK_DGRAM).sendto(b"first", (to, PORT))

def connected(family, to):
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.connect((to, PORT))
    s.send(b"first")

def raw():
    s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    s.sendto(b"\x08\x00\xf7\xff" + bytes(4), (v4, 0))

def frame():
    s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28, 0, 0, 64, 17, 0, socket.inet_aton("198.51.100.10"), socket.inet_aton(v4))
    s.sendto(ip + struct.pack("!HHHH", 9, PORT, 8, 0), (interface, 0x0800, 0, 0, b"\xff" * 6))

acts = {
    "tcp4": lambda: tcp(socket.AF_INET, v4), "tcp6": lambda: tcp(socket.AF_INET6, v6),
    "udp4": lambda: udp(socket.AF_INET, v4), "udp6": lambda: udp(socket.AF_INET6, v6),
    "connected4": lambda: connected(socket.AF_INET, v4), "connected6": lambda: connected(socket.AF_INET6, v6),
    "raw": raw,
}
if interface:
    acts["frame"] = frame

def clone_into(fd):
    # clone3(2) with CLONE_INTO_CGROUP: in the cgroup from the first instruction.
    args = struct.pack("11Q", 0x200000000, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, fd)
    pid = libc.syscall(435, ctypes.create_string_buffer(args), ctypes.c_size_t(88))
    if pid < 0:
        raise OSError(ctypes.get_errno(), "clone3")
    return pid

def retry(f, *args):
    until = time.monotonic() + 10
    while True:
        try:
            return f(*args)
        except OSError as e:
            if e.errno != errno.EBUSY or time.monotonic() > until:
                raise
            time.sleep(0.0002)

def once(act, move):
    for dir in levels:
        os.mkdir(dir)
    if move:
        pid = os.fork()
        if pid == 0:
            with open(path + "/cgroup.procs", "w") as f:
                f.write("0")
    else:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        pid = clone_into(fd)
    if pid == 0:
        code = 1
        try:
            act()
            code = 0
        except OSError:
            code = 1
        finally:
            os._exit(code)
    if not move:
        os.close(fd)
    status = os.waitpid(pid, 0)[1]
    for dir in reversed(levels):
        retry(os.rmdir, dir)
    return os.waitstatus_to_exitcode(status) == 0

out = {name: sum(once(act, i % 2 == 0) for i in range(count)) for name, act in acts.items()}
print(json.dumps(out))
