// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/world"
)

// boundQuery asks for the address of NAME by a socket as systemd-resolved makes
// them: IP_UNICAST_IF before, SO_BINDTODEVICE during connect(2).
const boundQuery = `
import socket, struct, sys
server, name, device, kind = sys.argv[1:5]
family = socket.AF_INET6 if ":" in server else socket.AF_INET
s = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
s.settimeout(3)
index = struct.pack("!I", socket.if_nametoindex(device))
s.setsockopt(*((socket.IPPROTO_IPV6, 76) if family == socket.AF_INET6 else (socket.IPPROTO_IP, 50)), index)
if kind != "sendto":
    s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
    s.connect((server, 53))
    s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"")
q = b"\x12\x34\x01\x00\0\1\0\0\0\0\0\0" + b"".join(bytes([len(l)]) + l.encode() for l in name.split(".")) + b"\0\0\1\0\1"
if kind == "tcp":
    s.sendall(struct.pack("!H", len(q)) + q)
    a = s.recv(2048)[2:]
elif kind == "sendto":
    s.sendto(q, (server, 53))
    a, peer = s.recvfrom(2048)
    assert peer[:2] == (server, 53), peer
else:
    s.send(q)
    a = s.recv(2048)
print("rcode", a[3] & 15, "answers", a[7])
`

// TestBoundToDevice: programs that bind their sockets to the uplink go by the
// policy as all others do: DNS, proxied and inspected connections.
func TestBoundToDevice(t *testing.T) {
	t.Parallel()
	n := start(t, seed(t, "googleapis.yaml"), nil)
	ask := func(cg *world.Cgroup, server, name, kind string) string {
		got := n.run(t, cg, "python3", "-c", boundQuery, server, name, world.Uplink, kind)
		return strings.TrimSpace(got.stdout + got.stderr)
	}
	for _, server := range []string{world.ResolverV4, world.ResolverV6} {
		for _, kind := range []string{"udp", "tcp", "sendto"} {
			if got := ask(n.in, server, world.GoogleAPIs, kind); got != "rcode 0 answers 1" {
				t.Errorf("an allowed name, %s to %s: %s", kind, server, got)
			}
			if got := ask(n.in, server, world.Stranger, kind); !strings.HasPrefix(got, "rcode ") || strings.HasSuffix(got, "answers 1") {
				t.Errorf("another name, %s to %s: %s", kind, server, got)
			}
			if got := ask(nil, server, world.Stranger, kind); got != "rcode 0 answers 1" {
				t.Errorf("not captured, %s to %s: %s", kind, server, got)
			}
		}
	}
	for _, family := range []string{"-4", "-6"} {
		for _, scheme := range []string{"http://", "https://"} {
			if a := n.curl(t, n.in, family, "--interface", "if!"+world.Uplink, scheme+world.GoogleAPIs+"/"); a.status != 200 {
				t.Errorf("%s %s bound to the uplink: %+v", family, scheme, a)
			}
			if a := n.curl(t, n.in, family, "--interface", "if!"+world.Uplink, scheme+world.Stranger+"/"); a.status == 200 {
				t.Errorf("%s %s of the stranger bound to the uplink: %+v", family, scheme, a)
			}
		}
	}
	// The listeners follow the addresses of the devices.
	v4, v6 := netip.MustParseAddr("192.0.2.77"), netip.MustParseAddr("2001:db8:77::77")
	if err := n.AddDevice("second", v4, v6); err != nil {
		t.Fatal(err)
	}
	for _, server := range []string{world.ResolverV4, world.ResolverV6} {
		eventually(t, soon, "DNS by a device that came later, "+server, func() bool {
			got := n.run(t, n.in, "python3", "-c", boundQuery, server, world.GoogleAPIs, "second", "udp")
			return strings.TrimSpace(got.stdout) == "rcode 0 answers 1"
		})
	}
}

// TestOwnAddressIsLocal: what a process of the node dials at an address of the node
// is local, as loopback is.
func TestOwnAddressIsLocal(t *testing.T) {
	t.Parallel()
	n := start(t, seed(t, "googleapis.yaml"), nil)
	later := []netip.Addr{netip.MustParseAddr("198.51.100.99"), netip.MustParseAddr("2001:db8:5::99")}
	if err := n.GiveNode(later...); err != nil {
		t.Fatal(err)
	}
	for _, a := range append(later, netip.MustParseAddr(world.NodeV4), netip.MustParseAddr(world.NodeV6)) {
		ln, err := n.Node.Listen(netip.AddrPortFrom(a, 9090))
		if err != nil {
			t.Fatal(err)
		}
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("metrics")) })}
		done := make(chan error, 1)
		go func(ln net.Listener) { done <- srv.Serve(ln) }(ln)
		t.Cleanup(func() { srv.Close(); <-done })
		url := "http://" + hostPort(a.String(), 9090) + "/"
		eventually(t, soon, url, func() bool { return n.curl(t, n.in, url).status == 200 })
	}
	for _, url := range []string{"http://" + hostPort(world.StrangerV4, 80) + "/", "http://" + hostPort(world.StrangerV6, 80) + "/"} {
		if a := n.curl(t, n.in, url); a.status == 200 {
			t.Errorf("%s: %+v", url, a)
		}
		if a := n.curl(t, nil, url); a.status != 200 {
			t.Errorf("not captured: %s: %+v", url, a)
		}
	}
}
