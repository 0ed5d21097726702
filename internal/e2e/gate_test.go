// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/privilege"
	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/policy"
)

// inPod is the node with its clients in a pod.
type inPod struct {
	*node
	pod *world.Pod
}

// probe is node.probe in the pod.
func (n inPod) probe(t *testing.T, cg *world.Cgroup, args ...string) probed {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), clientTimeout)
	defer cancel()
	e := finish(t, n.pod.Client(ctx, cg, probe, args...))
	var p probed
	if err := json.Unmarshal([]byte(e.stdout), &p); err != nil {
		t.Fatalf("probe %v in a pod: %v: %q %s", args, err, e.stdout, e.stderr)
	}
	return p
}

// pods runs a test with two pods on wires of their own, and with two on a bridge.
func pods(t *testing.T, f func(t *testing.T, n *node, pods []*world.Pod)) {
	for _, tt := range []struct {
		name    string
		bridged bool
	}{{"veth", false}, {"bridge", true}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var all []*world.Pod
			config := seed(t, "googleapis.yaml")
			config["more.yaml"] = udp("udp", world.API, "7") + tcp("tcp", world.API, "7")
			n := prepare(t, config, func(w *world.World) {
				var err error
				if all, err = w.AddPods(2, tt.bridged); err != nil {
					t.Fatal(err)
				}
			}, "--health-address", ":15021", "--status-address", ":15020")
			n.d.Prefix = confined(privilege.Needed(false)) // it enters network namespaces
			if err := n.d.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			f(t, n, all)
		})
	}
}

// TestPods: processes in network namespaces of their own are served as those
// of the node are.
func TestPods(t *testing.T) {
	t.Parallel()
	pods(t, func(t *testing.T, n *node, pods []*world.Pod) {
		for _, pod := range pods {
			n.served(t, inPod{n, pod})
			n.refused(t, inPod{n, pod})
		}
		n.reset(t, inPod{n, pods[0]})
		n.gatesClosed(t, inPod{n, pods[1]})
		n.podKilled(t, inPod{n, pods[0]})
		n.podCut(t, inPod{n, pods[1]})
	})
}

// served tries what is allowed.
func (n *node) served(t *testing.T, p inPod) {
	for _, name := range []string{world.GoogleAPIs, world.API} {
		if got := p.probe(t, n.in, "lookup", name); len(got.Addrs) != 2 {
			t.Errorf("lookup of %s: %+v, want both addresses", name, got)
		}
	}
	for _, server := range []string{world.ResolverV4, world.ResolverV6, world.OtherResolverV4} {
		for _, network := range []string{"udp", "tcp", "sendto"} {
			if got := p.probe(t, n.in, "dns", network, hostPort(server, 53), world.GoogleAPIs, "A"); got.Rcode != "NOERROR" || len(got.Addrs) != 1 {
				t.Errorf("DNS, %s to %s: %+v", network, server, got)
			}
			if got := p.probe(t, n.in, "dns", network, hostPort(server, 53), world.Stranger, "A"); got.Rcode != "NXDOMAIN" || got.EDE != 15 {
				t.Errorf("DNS about the stranger, %s to %s: %+v", network, server, got)
			}
		}
	}
	if got := p.probe(t, n.in, "get", "http://"+world.GoogleAPIs+"/"); got.Status != 200 {
		t.Errorf("proxied HTTP by name: %+v", got)
	}
	for _, addr := range []string{n.GoogleAPIs.V4.String(), n.GoogleAPIs.V6.String()} {
		hits := n.GoogleAPIs.Hits()
		if got := p.probe(t, n.in, "dial", hostPort(addr, 80)); got.Peer != hostPort(addr, 80) {
			t.Errorf("proxied, %s: connected to %+v", addr, got)
		}
		if got := p.probe(t, n.in, "tls", hostPort(addr, 443), world.GoogleAPIs, n.CAFile()); got.Status != 200 || n.GoogleAPIs.Hits() == hits {
			t.Errorf("inspected, %s: %+v", addr, got)
		}
	}
	for _, s := range []*world.Server{n.Echo, n.Echo6} {
		if got := p.probe(t, n.in, "dial", s.Addr.String()); got.Peer != s.Addr.String() {
			t.Errorf("direct, %s: %+v", s.Addr, got)
		}
	}
	for _, s := range []*world.Server{n.EchoUDP, n.EchoUDP6} {
		if got := p.probe(t, n.in, "udp", s.Addr.String(), "hello"); got.Text != "hello" {
			t.Errorf("UDP, %s: %+v", s.Addr, got)
		}
	}
}

// refused tries what is not allowed, and its twin.
func (n *node) refused(t *testing.T, p inPod) {
	for _, addr := range []string{world.StrangerV4, world.StrangerV6} {
		n.noWire(t, func() {
			if got := p.probe(t, n.in, "dial", hostPort(addr, 443)); got.Errno != syscall.ECONNREFUSED {
				t.Errorf("stranger %s: %+v, want ECONNREFUSED", addr, got)
			}
			if got := p.probe(t, n.in, "udp", hostPort(addr, 443), "x"); got.Error == "" {
				t.Errorf("stranger %s, UDP: %+v", addr, got)
			}
		}, addr)
		if got := p.probe(t, nil, "tls", hostPort(addr, 443), "", n.CAFile()); got.Status != 200 {
			t.Errorf("uncaptured, stranger %s: %+v", addr, got)
		}
	}
	if got := p.probe(t, nil, "dns", "udp", hostPort(world.OtherResolverV4, 53), world.Stranger, "A"); got.Rcode != "NOERROR" {
		t.Errorf("uncaptured, DNS: %+v", got)
	}
}

// reset: what is cut in a pod is reset there, and does not hang.
func (n *node) reset(t *testing.T, p inPod) {
	for _, addr := range []string{n.GoogleAPIs.V4.String(), n.GoogleAPIs.V6.String()} {
		got := p.probe(t, n.in, "tls", hostPort(addr, 443), world.Stranger, n.CAFile())
		if got.Errno != syscall.ECONNABORTED && got.Errno != syscall.ECONNRESET {
			t.Errorf("the stranger's SNI at %s: %+v, want a reset", addr, got)
		}
	}
	n.event(t, "the stranger's SNI is denied", func(e flow.Event) bool {
		return e.Name == world.Stranger && e.Reason == policy.ReasonName
	})
}

// gatesOf are the gates that the daemon stands at.
func (n *node) gatesOf(t *testing.T) []netip.Addr {
	t.Helper()
	var s struct{ Gates []netip.Addr }
	e := n.egressd(t, "status", "-o", "json")
	if err := json.Unmarshal([]byte(e.stdout), &s); err != nil || len(s.Gates) != 2 {
		t.Fatalf("gates in the status: %v, %v", s.Gates, err)
	}
	return s.Gates
}

// gatesClosed: the gates serve only what was redirected there.
func (n *node) gatesClosed(t *testing.T, p inPod) {
	for _, g := range n.gatesOf(t) {
		for _, port := range []uint16{15001, 15053, 15020, 22} {
			if got := p.probe(t, n.in, "dial", netip.AddrPortFrom(g, port).String()); got.Errno != syscall.ECONNREFUSED {
				t.Errorf("%s port %d from a pod: %+v, want ECONNREFUSED", g, port, got)
			}
			if got := n.probe(t, n.in, "dial", netip.AddrPortFrom(g, port).String()); got.Errno != syscall.ECONNREFUSED {
				t.Errorf("%s port %d from the node: %+v, want ECONNREFUSED", g, port, got)
			}
		}
		if got := p.probe(t, n.in, "udp", netip.AddrPortFrom(g, 15053).String(), "x"); got.Error == "" {
			t.Errorf("%s port 15053, UDP: %+v", g, got)
		}
		// Who is not captured gets there, and is served nothing.
		hits := n.GoogleAPIs.Hits()
		if got := n.probeWith(t, nil, strings.NewReader(last(world.GoogleAPIs)), "send", netip.AddrPortFrom(g, 15001).String()); strings.HasPrefix(got.Text, "HTTP") || n.GoogleAPIs.Hits() != hits {
			t.Errorf("%s port 15001, uncaptured: %+v", g, got)
		}
		if got := p.probe(t, nil, "dns", "tcp", netip.AddrPortFrom(g, 15053).String(), world.GoogleAPIs, "A"); got.Rcode != "" {
			t.Errorf("%s port 15053, uncaptured: %+v", g, got)
		}
		// A twin: the port that anybody may use is there.
		if got := p.probe(t, nil, "dial", netip.AddrPortFrom(g, 15021).String()); got.Error != "" {
			t.Errorf("%s port 15021, uncaptured: %+v", g, got)
		}
	}
	n.event(t, "dialling a gate is denied", func(e flow.Event) bool {
		return e.Reason == policy.ReasonOwnPort && slices.Contains(n.gatesOf(t), e.Dst.Addr())
	})
}

// podKilled: while the daemon is down, pods are refused what it serves.
func (n *node) podKilled(t *testing.T, p inPod) {
	_ = n.d.Kill() // the error says that it was killed
	google4, google6 := n.GoogleAPIs.V4.String(), n.GoogleAPIs.V6.String()
	n.noWire(t, func() {
		for _, addr := range []string{google4, google6} {
			if got := p.probe(t, n.in, "dial", hostPort(addr, 80)); got.Errno != syscall.ECONNREFUSED {
				t.Errorf("killed, proxied %s: %+v, want ECONNREFUSED", addr, got)
			}
		}
		for _, network := range []string{"udp", "tcp"} {
			if got := p.probe(t, n.in, "dns", network, hostPort(world.ResolverV4, 53), world.GoogleAPIs, "A"); got.Rcode != "" {
				t.Errorf("killed, DNS %s: %+v", network, got)
			}
		}
	}, google4, google6, world.ResolverV4, "169.254.255.151", "fd65:6772:6573:73::151")
	for _, addr := range []string{google4, google6} {
		if got := p.probe(t, n.in, "tls", hostPort(addr, 443), world.GoogleAPIs, n.CAFile()); got.Status != 200 {
			t.Errorf("killed, inspected %s: %+v", addr, got)
		}
	}
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := p.probe(t, n.in, "get", "http://"+world.GoogleAPIs+"/"); got.Status != 200 {
		t.Errorf("back: %+v", got)
	}
}

// podCut: a pod without a way to the gate has none to anywhere.
func (n *node) podCut(t *testing.T, p inPod) {
	if err := p.pod.Cut(); err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{n.GoogleAPIs.V4.String(), n.GoogleAPIs.V6.String()} {
		if got := p.probe(t, n.in, "dial", hostPort(addr, 80)); got.Errno != syscall.ENETUNREACH {
			t.Errorf("without a route, %s: %+v, want ENETUNREACH", addr, got)
		}
	}
	for _, network := range []string{"udp", "sendto", "tcp"} {
		if got := p.probe(t, n.in, "dns", network, hostPort(world.ResolverV4, 53), world.GoogleAPIs, "A"); got.Rcode != "" {
			t.Errorf("without a route, DNS %s: %+v", network, got)
		}
	}
}

// TestGateKept: a gate that somebody takes away is put back.
func TestGateKept(t *testing.T) {
	t.Parallel()
	n := start(t, seed(t, "googleapis.yaml"), nil)
	gates := n.gatesOf(t)
	for _, g := range gates {
		if err := n.TakeFromNode(g); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, 20*time.Second, "the gates are back", func() bool {
		have, err := n.NodeAddrs()
		return err == nil && slices.Contains(have, gates[0]) && slices.Contains(have, gates[1])
	})
}

// TestGateTaken: an address that is somebody else's is no gate, and unload
// leaves it alone.
func TestGateTaken(t *testing.T) {
	t.Parallel()
	taken := []netip.Addr{netip.MustParseAddr("169.254.255.151"), netip.MustParseAddr("fd65:6772:6573:73::151")}
	n := start(t, seed(t, "googleapis.yaml"), func(w *world.World) {
		if err := w.GiveNode(taken...); err != nil {
			t.Fatal(err)
		}
	})
	for _, g := range n.gatesOf(t) {
		if slices.Contains(taken, g) {
			t.Errorf("the gate is %s, which is the node's", g)
		}
	}
	if e := n.egressd(t, "unload", "--pin-dir", n.d.PinDir()); e.code != 0 {
		t.Fatalf("unload: %+v", e)
	}
	left, err := n.NodeAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range left {
		if (a.IsLinkLocalUnicast() && a.Is4() || strings.HasPrefix(a.String(), "fd65:")) && !slices.Contains(taken, a) {
			t.Errorf("unload left %s", a)
		}
	}
	for _, a := range taken {
		if !slices.Contains(left, a) {
			t.Errorf("unload took %s away", a)
		}
	}
}
