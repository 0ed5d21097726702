// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
)

// TestOpenBefore: a connection that was open before egressd came is ended when
// the policy does not allow it by its address; what others opened to the node
// goes on.
func TestOpenBefore(t *testing.T) {
	t.Parallel()
	var echo4, echo6 *world.Server
	n := prepare(t, map[string]string{"static.yaml": `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: static}
spec:
  hosts: [static.example]
  ports: [{number: 7, name: tcp, protocol: TCP}]
  resolution: STATIC
  endpoints: [{address: ` + world.DBV4 + `}, {address: "` + world.DBV6 + `"}]
`}, func(w *world.World) {
		var err error
		if echo4, err = w.AddTCP(netip.MustParseAddrPort(hostPort(world.DBV4, 7)), ""); err != nil {
			t.Fatal(err)
		}
		if echo6, err = w.AddTCP(netip.MustParseAddrPort(hostPort(world.DBV6, 7)), ""); err != nil {
			t.Fatal(err)
		}
	})
	stranger4, stranger6 := n.open(t, n.Echo.Addr.String()), n.open(t, n.Echo6.Addr.String())
	allowed4, allowed6 := n.open(t, echo4.Addr.String()), n.open(t, echo6.Addr.String())
	testenv.RequireTool(t, "python3")
	server := n.client(t, n.in, "python3", "-u", "-c", `
import socket
s = socket.create_server(("::", 8080), family=socket.AF_INET6, dualstack_ipv6=True)
print("ready")
while True:
    c, _ = s.accept()
    c.sendall(c.recv(64))
    c.sendall(c.recv(64))`)
	out, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Kill() // it never ends by itself
		_ = server.Wait()
	})
	if _, err := out.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	visitor, err := n.Net.Dial(t.Context(), "tcp", netip.MustParseAddrPort(hostPort(world.NodeV4, 8080)))
	if err != nil {
		t.Fatal(err)
	}
	defer visitor.Close()
	echo := func(text string) bool {
		_ = visitor.SetDeadline(time.Now().Add(soon))
		if _, err := visitor.Write([]byte(text)); err != nil {
			return false
		}
		buf := make([]byte, 64)
		k, err := visitor.Read(buf)
		return err == nil && string(buf[:k]) == text
	}
	for name, ok := range map[string]bool{
		"IPv4": stranger4.echo("before"), "IPv6": stranger6.echo("before"), "visitor": echo("before"),
		"allowed IPv4": allowed4.echo("before"), "allowed IPv6": allowed6.echo("before"),
	} {
		if !ok {
			t.Fatalf("%s: the connection does not work without egressd", name)
		}
	}
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if stranger4.echo("after") || stranger6.echo("after") {
		t.Error("a connection to a stranger outlived the start")
	}
	if !echo("after") {
		t.Error("a visitor's connection was cut")
	}
	if !allowed4.echo("after") || !allowed6.echo("after") {
		t.Error("a connection to an allowed address was cut")
	}
	n.event(t, "the stranger's", func(e flow.Event) bool {
		return !e.Allowed && e.Dst == n.Echo.Addr && strings.Contains(e.Detail, "before")
	})
}
