// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/policy"
)

// modelTime is how long TestModel looks for a way out, for each kind of socket.
func modelTime() time.Duration {
	if os.Getenv("EGRESSD_CI") == "1" {
		return 20 * time.Second
	}
	return 2 * time.Second
}

// modelFamily has the addresses that a socket of one family may try.
type modelFamily struct {
	name string
	// ruled has a UDP rule for port 7001 and one for TCP, when the policy says
	// so; known is one that only TCP may go to, so that connect() of UDP is let
	// pass; stranger is nobody's.
	ruled, known, stranger, loopback, barrier string
}

var modelFamilies = []modelFamily{
	{"4", "203.0.113.101", "203.0.113.102", world.StrangerV4, "127.0.0.1", "203.0.113.200"},
	{"6", "2001:db8:bad::101", "2001:db8:bad::102", world.StrangerV6, "::1", "2001:db8:bad::200"},
	{"mapped", "203.0.113.101", "203.0.113.102", world.StrangerV4, "127.0.0.1", "203.0.113.200"},
}

const (
	modelOpen  = 7001
	modelKnown = 443
)

// model says where bytes may arrive.
type model struct {
	modelFamily
	*rig
	isOpen bool
	// uplink is the index of the interface that leads out.
	uplink int
}

// may says whether packets with this destination may leave now.
func (m *model) may(p world.Packet) bool {
	switch {
	case p.Reset: // the kernel's own, of a socket that is gone, with numbers that it made
		return true
	case p.Protocol != 6 && p.Protocol != 17:
		return !p.Dst.IsLoopback() // what the link needs
	case p.Dst.String() == m.barrier:
		return true
	case p.Dst.String() == m.known && p.Protocol == 6:
		return p.Port == modelKnown
	case p.Dst.String() == m.ruled && p.Protocol == 6:
		// A reset of what is denied by now is the kernel's own.
		return p.Port == modelOpen
	}
	return p.Dst.String() == m.ruled && p.Port == modelOpen && m.isOpen
}

// set opens or closes the UDP rule.
func (m *model) set(open bool) {
	m.t.Helper()
	m.isOpen = open
	var openings []policy.Opening
	if open {
		openings = []policy.Opening{
			{Port: modelOpen, Transport: policy.UDP, Verdict: policy.Direct},
			{Port: modelOpen, Transport: policy.TCP, Verdict: policy.Direct},
		}
	}
	must(m.t, m.dp.SetAddress(testPolicy, netip.MustParseAddr(m.ruled), openings))
	must(m.t, m.dp.SetAddress(testPolicy, netip.MustParseAddr(m.known), []policy.Opening{
		{Port: modelKnown, Transport: policy.TCP, Verdict: policy.Direct},
	}))
	must(m.t, m.dp.RaiseEpoch())
}

// wire counts what has left so far: a datagram of nobody's goes behind it.
func (m *model) wire() map[world.Packet]int {
	m.t.Helper()
	at := world.Packet{Dst: netip.MustParseAddr(m.barrier), Protocol: 17, Port: 9}
	before := m.world.Wire()[at]
	c, err := m.world.Node.Dial(m.t.Context(), "udp", netip.AddrPortFrom(at.Dst, at.Port))
	must(m.t, err)
	defer c.Close()
	_, err = c.Write([]byte("barrier"))
	must(m.t, err)
	var now map[world.Packet]int
	testenv.Until(m.t, "the barrier leaves", func() bool {
		now = m.world.Wire()
		return now[at] > before
	})
	return now
}

// step is a random operation on the socket.
func (m *model) step(rnd *rand.Rand) string {
	to := func() string {
		targets := []string{
			hostport(m.ruled, modelOpen), hostport(m.ruled, modelOpen), hostport(m.ruled, modelOpen+1),
			hostport(m.known, modelKnown), hostport(m.known, modelKnown), hostport(m.stranger, 443),
			hostport(m.loopback, 9), hostport(m.loopback, int(m.ports.DNSUDP[0])), hostport(m.stranger, 53),
			hostport(m.known, 53),
		}
		return targets[rnd.IntN(len(targets))]
	}
	switch rnd.IntN(22) {
	case 0, 1, 2, 3:
		return "connect " + to()
	case 4, 5, 6, 7:
		return "send"
	case 8, 9, 10, 11:
		return "sendto " + to()
	case 12:
		return "family " + to()
	case 13:
		return "unspec"
	case 14:
		return "more " + to()
	case 15:
		return "moresend"
	case 16:
		return fmt.Sprint("cmsg ", to(), " ", []int{0, 1, m.uplink}[rnd.IntN(3)])
	case 17:
		return "device " + []string{"", "lo", world.Uplink}[rnd.IntN(3)]
	case 18:
		return fmt.Sprint("unicastif ", []int{0, 1, m.uplink}[rnd.IntN(3)])
	case 19:
		return fmt.Sprint("ttl ", []int{1, 64}[rnd.IntN(2)])
	case 20:
		return "bind " + hostport([]string{m.loopback, map[bool]string{true: "::", false: "0.0.0.0"}[m.name == "6"]}[rnd.IntN(2)], 0)
	}
	return "receive"
}

// TestModel drives one socket through random operations while the policy
// changes: whatever it does, only what the policy allows at that time leaves.
func TestModel(t *testing.T) {
	for _, f := range modelFamilies {
		for _, typ := range []string{"udp", "tcp"} {
			t.Run(typ+f.name, func(t *testing.T) { runModel(t, f, typ) })
		}
	}
}

func runModel(t *testing.T, f modelFamily, typ string) {
	r := newRig(t)
	m := &model{modelFamily: f, rig: r, uplink: r.linkIndex(world.Uplink)}
	echo := netip.AddrPortFrom(netip.MustParseAddr(f.ruled), modelOpen)
	_, err := r.world.AddUDP(echo)
	must(t, err)
	_, err = r.world.AddTCP(echo, "")
	must(t, err)
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("EGRESSD_MODEL_SEED"); s != "" {
		_, err := fmt.Sscan(s, &seed)
		must(t, err)
	}
	rnd := rand.New(rand.NewPCG(seed, 1))
	onFirstCPU() // the barrier's thread
	captured := r.talk(r.world.Node, r.cg, "model", "0.0.0.0:0")
	var history []string
	rounds, passed := 0, 0
	for end := time.Now().Add(modelTime()); time.Now().Before(end); rounds++ {
		if open := rnd.IntN(2) == 0; rounds == 0 || open != m.isOpen && rnd.IntN(2) == 0 {
			m.set(open)
			history = append(history, fmt.Sprint("policy open: ", open))
		}
		var ops []string
		if rounds == 0 || rnd.IntN(4) == 0 {
			ops, history = append(ops, "new "+typ+" "+f.name), history[max(0, len(history)-1):]
		}
		for range 2 + rnd.IntN(10) {
			ops = append(ops, m.step(rnd))
		}
		line := strings.Join(ops, "; ")
		history = append(history, line)
		before := m.wire()
		captured.ask(line)
		for p, n := range m.wire() {
			switch {
			case n == before[p] || p.Dst.String() == f.barrier:
			case m.may(p):
				passed++
			default:
				t.Fatalf("seed %d: %d packets left to %s port %d, protocol %d, after:\n%s",
					seed, n-before[p], p.Dst, p.Port, p.Protocol, strings.Join(history, "\n"))
			}
		}
	}
	if passed == 0 {
		t.Errorf("seed %d: in %d rounds nothing left that may: the test proves nothing", seed, rounds)
	}
	t.Logf("seed %d: %d rounds, %d flows that may", seed, rounds, passed)
	m.set(true)
	free := r.talk(r.world.Node, nil, "model", "0.0.0.0:0")
	before := m.wire()
	free.ask(fmt.Sprintf("new %s %s; connect %s; send", typ, f.name, hostport(f.stranger, 443)))
	out := 0
	for p, n := range m.wire() {
		if p.Dst.String() == f.stranger {
			out += n - before[p]
		}
	}
	if out == 0 {
		t.Error("uncaptured, nothing left: the test proves nothing")
	}
}
