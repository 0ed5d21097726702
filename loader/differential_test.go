// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/bpf"
	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/internal/learned"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/policy"
)

// The differential test asks both evaluators, policy.Decide and the kernel,
// about the same flows under random policies.
const (
	randomPolicies = 100
	flowsEach      = 100
)

// dialMany is the client process: it reads "transport address:port" lines,
// connects without waiting, and prints the verdict that the kernel gave and
// the peer that it chose, as socket storage has it.
func dialMany(sockets string, in io.Reader, out io.Writer) error {
	m, err := ebpf.LoadPinnedMap(sockets, nil)
	if err != nil {
		return err
	}
	defer m.Close()
	w := bufio.NewWriter(out)
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		transport, addr, _ := strings.Cut(lines.Text(), " ")
		v, peer, err := kernelVerdict(m, transport, netip.MustParseAddrPort(addr))
		if err != nil {
			return err
		}
		fmt.Fprintln(w, v, peer)
	}
	return errors.Join(lines.Err(), w.Flush())
}

func kernelVerdict(m *ebpf.Map, transport string, dst netip.AddrPort) (policy.Verdict, netip.AddrPort, error) {
	typ := unix.SOCK_STREAM
	if transport == policy.UDP.String() {
		typ = unix.SOCK_DGRAM
	}
	fd, sa, err := socket(dst, typ|unix.SOCK_NONBLOCK, false)
	if err != nil {
		return policy.Deny, dst, err
	}
	defer unix.Close(fd)
	// The errno does not tell a refusal from a port where nobody listens.
	_ = unix.Connect(fd, sa)
	var st bpf.EgressdEgdSocket
	err = m.Lookup(int32(fd), &st)
	if errors.Is(err, ebpf.ErrKeyNotExist) || err == nil && st.UdpBlocked != 0 {
		return policy.Deny, dst, nil // nothing was kept, or only what forbids sending
	}
	peer := dst
	if st.Rewritten != 0 {
		p := st.PeerPort
		peer = netip.AddrPortFrom(netip.AddrFrom16(st.Peer).Unmap(), p<<8|p>>8)
	}
	return policy.Verdict(st.Verdict), peer, err
}

// compiled is a learned.Policies of one snapshot; nil has no policy.
type compiled struct{ s *policy.Snapshot }

func (c *compiled) Policy(id policy.PolicyID) *policy.Policy {
	if c.s == nil {
		return nil
	}
	return c.s.Policy(id)
}

// TestDifferential: Decide and the kernel agree on thousands of flows.
func TestDifferential(t *testing.T) {
	t.Run("small tables", func(t *testing.T) { differential(t, newRig(t)) })
	t.Run("tables that grow", func(t *testing.T) {
		r := newBareRig(t)
		r.load(func(o loader.Options) (*loader.Datapath, error) {
			return loader.OpenAs(o, func(s *ebpf.CollectionSpec) {
				for _, name := range growing {
					s.Maps[name].InnerMap.MaxEntries = 2
				}
			})
		})
		must(t, r.dp.SetReady(true))
		must(t, r.dp.Attach(r.cg.Path()))
		differential(t, r)
		for name, n := range r.rooms() {
			if n < 16 {
				t.Errorf("%s has room for %d entries: the test asks too little", name, n)
			}
		}
	})
}

func differential(t *testing.T, r *rig) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(1, 2))
	seen := map[policy.Verdict]int{}
	flows, rewritten, inside := 0, 0, map[bool]int{}
	var before *policy.Snapshot
	for n := range randomPolicies {
		g := &generator{Rand: rnd}
		s, err := policy.Compile(g.config())
		if err != nil {
			t.Fatalf("policy %d: %v", n, err)
		}
		p := s.Policy(testPolicy)
		// One time all is written anew, the next time what has changed.
		if n%2 == 0 {
			before = nil
		}
		change := policy.Diff(before, s)
		must(t, errors.Join(r.dp.Tighten(change), r.dp.Loosen(change)))
		before = s
		names := learned.New(r.dp, &compiled{s}, learned.Options{})
		g.learn(t, names, p)
		asked := g.flows(flowsEach)
		got := r.askKernel(asked)
		for i, f := range asked {
			f.Names = names.NamesOf(testPolicy, f.Dst.Addr())
			want := p.Decide(f)
			seen[want.Verdict]++
			flows++
			if in, ok := p.Inside(f.Transport, f.Dst); ok && want.Port == nil && want.Verdict == policy.Direct {
				inside[in.Service != nil]++
			}
			if want.Verdict == policy.Proxy || want.Verdict == policy.Deny {
				got[i].peer = f.Dst // there is none
			}
			if !want.To.IsZero() {
				rewritten++
			}
			if !want.To.Has(f.Dst, got[i].peer) {
				t.Errorf("policy %d: %s %s, learned for %v: the kernel goes to %s, Decide says %s",
					n, f.Transport, f.Dst, f.Names, got[i].peer, want.To)
			}
			if got[i].verdict != want.Verdict {
				t.Errorf("policy %d: %s %s, learned for %v: the kernel says %s, Decide says %s (%s)",
					n, f.Transport, f.Dst, f.Names, got[i].verdict, want.Verdict, want.Reason)
			}
		}
		if t.Failed() {
			t.Fatal(s.Text())
		}
		must(t, names.Retire(policy.Diff(nil, new(policy.Snapshot)))) // forget them all
	}
	for _, v := range []policy.Verdict{policy.Deny, policy.Direct, policy.Inspect, policy.Proxy} {
		if seen[v] < flows/50 {
			t.Errorf("of %d flows only %d have the verdict %s: the test asks too little", flows, seen[v], v)
		}
	}
	if inside[false] < flows/50 || inside[true] < flows/500 {
		t.Errorf("of %d flows only %d are open inside of the cluster, and %d to Services: the test asks too little", flows, inside[false], inside[true])
	}
	if rewritten < flows/50 {
		t.Errorf("of %d flows only %d go to an endpoint: the test asks too little", flows, rewritten)
	}
	must(t, r.dp.Tighten(only()))
	r.waitForSets(0)
	fills := r.dp.Fills()
	for name, f := range fills {
		if name != "egd_origins" && name != "egd_workloads" && f.Entries != 0 {
			t.Errorf("%s keeps %d entries", name, f.Entries)
		}
	}
}

// answer is the kernel's verdict for a flow, and where the flow goes.
type answer struct {
	verdict policy.Verdict
	peer    netip.AddrPort
}

// askKernel lets one captured process dial every flow.
func (r *rig) askKernel(flows []policy.Flow) []answer {
	r.t.Helper()
	self, err := os.Executable()
	must(r.t, err)
	var in strings.Builder
	for _, f := range flows {
		fmt.Fprintln(&in, f.Transport, f.Dst)
	}
	cmd := r.world.Node.Command(r.t.Context(), r.cg, self, filepath.Join(r.pins, "egd_sockets"))
	cmd.Env = append(os.Environ(), "EGRESSD_TEST_CLIENT=many")
	cmd.Stdin = strings.NewReader(in.String())
	out, err := cmd.Output()
	must(r.t, err)
	var got []answer
	for line := range strings.Lines(string(out)) {
		var a answer
		verdict, peer, _ := strings.Cut(strings.TrimSpace(line), " ")
		must(r.t, a.verdict.UnmarshalText([]byte(verdict)))
		a.peer = netip.MustParseAddrPort(peer)
		got = append(got, a)
	}
	if len(got) != len(flows) {
		r.t.Fatalf("%d answers for %d flows", len(got), len(flows))
	}
	return got
}

// generator makes policies and flows out of a small world, so that they meet.
type generator struct{ *rand.Rand }

func pick[T any](g *generator, of ...T) T { return of[g.IntN(len(of))] }

func (g *generator) host() string {
	return pick(g, "a.example", "b.example", "x.wild.example", "y.wild.example", "deep.x.wild.example", "c.example")
}

func (g *generator) pattern() hostname.Pattern {
	return hostname.Pattern(pick(g, g.host(), g.host(), "*.wild.example", "*.example"))
}

func (g *generator) port() uint16 { return pick[uint16](g, 80, 443, 3306, 8443) }

// addr is one of a few addresses of documentation and benchmarking ranges.
func (g *generator) addr() netip.Addr {
	n := byte(g.IntN(6))
	return pick(g, netip.AddrFrom4([4]byte{198, 18, 0, n}), netip.AddrFrom4([4]byte{198, 18, 1, n}),
		netip.MustParseAddr("2001:db8::"+strconv.FormatUint(uint64(n), 16)),
		netip.MustParseAddr("2001:db8:1::"+strconv.FormatUint(uint64(n), 16)))
}

func (g *generator) config() *policy.Config {
	c := &policy.Config{}
	for i := range 2 + g.IntN(6) {
		s := &policy.Service{
			Ref:        policy.Ref{Kind: "ServiceEntry", Namespace: "default", Name: "s" + strconv.Itoa(i)},
			External:   true,
			Hosts:      []hostname.Pattern{g.pattern()},
			Resolution: pick(g, policy.ResolutionNone, policy.ResolutionDNS, policy.ResolutionStatic),
		}
		for _, n := range g.Perm(4)[:1+g.IntN(3)] {
			s.Ports = append(s.Ports, policy.Port{
				Number: [...]uint16{80, 443, 3306, 8443}[n], Name: "p" + strconv.Itoa(n),
				Protocol: pick(g, policy.ProtocolHTTP, policy.ProtocolHTTPS, policy.ProtocolTLS, policy.ProtocolTCP,
					policy.ProtocolUDP, policy.ProtocolUnset, policy.ProtocolTCP, policy.ProtocolHTTPS),
				TargetPort: pick[uint16](g, 0, 0, 0, 0, 0, 8443),
			})
		}
		g.addresses(s)
		c.Services = append(c.Services, s)
	}
	g.cluster(c)
	return c
}

// cluster puts some of the addresses inside of a cluster, and has a Sidecar
// close it but for a Service.
func (g *generator) cluster(c *policy.Config) {
	if g.IntN(2) == 0 {
		return
	}
	c.Cluster.Prefixes = []netip.Prefix{netip.MustParsePrefix("198.18.1.0/29"), netip.MustParsePrefix("2001:db8:1::/120")}
	if g.IntN(2) == 0 {
		c.Cluster.Prefixes[0] = netip.MustParsePrefix("198.18.0.3/32")
	}
	if g.IntN(2) == 0 {
		return
	}
	c.Services = append(c.Services, &policy.Service{
		Ref: policy.Ref{Kind: "Service", Namespace: "default", Name: "kube"}, Resolution: policy.ResolutionStatic,
		Hosts: []hostname.Pattern{"kube.default.svc.cluster.local"}, ClusterIPs: []netip.Addr{g.addr(), g.addr(), g.addr()},
		Ports:     []policy.Port{{Number: g.port(), Protocol: policy.ProtocolTCP}, {Number: 53123, Protocol: policy.ProtocolTCP}, {Number: g.port(), Protocol: policy.ProtocolUDP}},
		Endpoints: []policy.Endpoint{{Addr: g.addr(), Ports: map[string]uint16{"": g.port()}}},
	})
	c.Sidecars = []*policy.Sidecar{{
		Ref:    policy.Ref{Kind: "Sidecar", Namespace: "default", Name: "narrow"},
		Egress: []policy.SidecarEgress{{Hosts: []policy.SidecarHost{{Namespace: pick(g, "*", "default"), Host: pick[hostname.Pattern](g, "*", "*.svc.cluster.local")}}}},
	}}
}

func (g *generator) addresses(s *policy.Service) {
	if s.Resolution == policy.ResolutionStatic {
		for range 1 + g.IntN(3) {
			e := policy.Endpoint{Addr: g.addr(), Weight: uint32(g.IntN(4))}
			if g.IntN(4) == 0 {
				e.Ports = map[string]uint16{s.Ports[0].Name: 8443}
			}
			s.Endpoints = append(s.Endpoints, e)
		}
	}
	if s.Resolution == policy.ResolutionDNS && g.IntN(5) == 0 {
		s.Endpoints = append(s.Endpoints, policy.Endpoint{Addr: g.addr()}, policy.Endpoint{Addr: g.addr()})
	}
	if g.IntN(3) > 0 {
		return
	}
	a := g.addr()
	bits := a.BitLen()
	if s.Resolution != policy.ResolutionDNS {
		bits -= g.IntN(4)
	}
	s.Addresses = append(s.Addresses, netip.PrefixFrom(a, bits).Masked())
}

// learn lets allowed names have some of the addresses.
func (g *generator) learn(t *testing.T, names *learned.Names, p *policy.Policy) {
	t.Helper()
	for range 16 {
		name := g.host()
		if h := p.Lookup(name); h == nil || h.Own {
			continue
		}
		err := names.Learn(testPolicy, "w", name, []learned.Record{{Addr: g.addr(), TTL: time.Hour}, {Addr: g.addr(), TTL: time.Hour}})
		if err != nil && !errors.Is(err, learned.ErrAddress) {
			t.Fatal(err)
		}
	}
}

func (g *generator) flows(n int) []policy.Flow {
	out := make([]policy.Flow, n)
	for i := range out {
		out[i] = policy.Flow{
			Transport: pick(g, policy.TCP, policy.TCP, policy.TCP, policy.UDP),
			Dst:       netip.AddrPortFrom(g.addr(), g.port()),
		}
	}
	return out
}
