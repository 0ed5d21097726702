# A server of HTTP/1 by hand: rawserver.py ADDRESS PORT
#   /close       ends the connection instead of an answer
#   /events?n=N  N events of 1 KiB, and no length
import socket, sys, threading


def serve(s):
    with s:
        head = b""
        while b"\r\n\r\n" not in head:
            p = s.recv(4096)
            if not p:
                return
            head += p
        path = head.split(b" ")[1].decode()
        if path.startswith("/close"):
            return
        s.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        for _ in range(int(path.partition("n=")[2] or 0)):
            s.sendall(b"data: " + 1016 * b"x" + b"\n\n")


with socket.create_server((sys.argv[1], int(sys.argv[2]))) as ln:
    while True:
        threading.Thread(target=serve, args=(ln.accept()[0],), daemon=True).start()
