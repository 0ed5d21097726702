// SPDX-License-Identifier: Apache-2.0

package control

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/learned"
	"github.com/egressd/egressd/loader/tables"
	"github.com/egressd/egressd/policy"
)

// node is what a policy is in force in, without a kernel: the kernel's tables
// are those of the loader, in memory, and a flow is judged as the programs do.
type node struct {
	t *testing.T
	Current
	kernel  kernel
	tables  *tables.Tables
	names   *learned.Names
	narrow  Narrow
	pipe    *Pipeline
	writes  int
	failAt  int  // the write that fails; 0: none
	crashes bool // so do all that follow
	failed  bool
	epoch   int
	// check looks at the node after each write.
	check func(at string)
	step  string
	// known are the learned names, as they were at the beginning of the step.
	known map[policy.PolicyID]map[netip.Addr][]string
	// in is the policy that user space has for each workload; none before it has
	// bound them.
	in map[string]policy.PolicyID
}

// kernel is what outlives a crash.
type kernel struct {
	addrs     memory[tables.AddrKey, tables.Verdict]
	nets      memory[tables.CidrKey, tables.Verdict]
	known     memory[tables.KnownKey, uint32]
	names     memory[tables.NameKey, uint32]
	endpoints memory[tables.EndpointKey, tables.Endpoint]
	workloads map[string]binding
	set       uint32
}

type binding struct {
	policy policy.PolicyID
	any    bool
}

var errBroken = errors.New("broken")

// memory is a table of the kernel.
type memory[K comparable, V any] map[K]V

type store[K comparable, V any] struct {
	memory[K, V]
	n *node
}

func (s store[K, V]) Put(k *K, v *V) error {
	return s.n.write(func() { s.memory[*k] = *v })
}

func (s store[K, V]) Remove(k *K) error {
	if _, ok := s.memory[*k]; !ok {
		return nil
	}
	return s.n.write(func() { delete(s.memory, *k) })
}

func (s store[K, V]) Each(f func(*K, *V)) error {
	for k, v := range maps.Clone(s.memory) {
		f(&k, &v)
	}
	return nil
}

func (s store[K, V]) Reserve(int) error { return nil }
func (s store[K, V]) Len() int          { return len(s.memory) }

// write is one write to the kernel.
func (n *node) write(do func()) error {
	n.writes++
	if n.writes == n.failAt || n.crashes && n.failed {
		n.failed = true
		return errBroken
	}
	do()
	if n.check != nil {
		n.check(fmt.Sprintf("write %d, %s", n.writes, n.step))
	}
	return nil
}

// workloadNames are the cgroups of a node, beside those of everything else.
var workloadNames = []string{"0", "1", "2", "node"}

func newKernel() kernel {
	return kernel{
		memory[tables.AddrKey, tables.Verdict]{}, memory[tables.CidrKey, tables.Verdict]{}, memory[tables.KnownKey, uint32]{},
		memory[tables.NameKey, uint32]{}, memory[tables.EndpointKey, tables.Endpoint]{}, map[string]binding{}, 0,
	}
}

// newNode starts a daemon over a kernel.
func newNode(t *testing.T, k kernel, first *policy.Snapshot) *node {
	t.Helper()
	n := &node{t: t, kernel: k, in: map[string]policy.PolicyID{}}
	var err error
	n.tables, err = tables.New(tables.Stores{
		Addrs: store[tables.AddrKey, tables.Verdict]{k.addrs, n}, Nets: store[tables.CidrKey, tables.Verdict]{k.nets, n},
		Known: store[tables.KnownKey, uint32]{k.known, n}, Names: store[tables.NameKey, uint32]{k.names, n},
		Endpoints: store[tables.EndpointKey, tables.Endpoint]{k.endpoints, n},
		NewSet:    func() (uint32, error) { n.kernel.set++; return n.kernel.set, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	n.names = learned.New(n.tables, &n.Current, learned.Options{})
	n.Set(first)
	n.pipe = NewPipeline(&n.Current, Targets{
		Tables: n.tables, Learned: n.names, Workloads: workloadsOf{n},
		Epoch:   func() error { return n.write(func() { n.epoch++ }) },
		Recheck: func() {}, Gateway: func(*policy.Snapshot) error { return nil },
	})
	n.watch()
	return n
}

// watch follows the steps.
func (n *node) watch() {
	for i, s := range n.pipe.steps {
		n.pipe.steps[i].do = func(c policy.Change) error {
			n.step = s.Name
			n.remember()
			err := s.do(c)
			n.remember()
			n.step = ""
			if err == nil && n.check != nil {
				n.check("after " + s.Name)
			}
			return err
		}
	}
}

func (n *node) remember() {
	n.known = map[policy.PolicyID]map[netip.Addr][]string{}
	for _, l := range n.names.Dump() {
		if n.known[l.Policy] == nil {
			n.known[l.Policy] = map[netip.Addr][]string{}
		}
		n.known[l.Policy][l.Addr] = append(n.known[l.Policy][l.Addr], l.Name)
	}
}

// workloadsOf binds as the agent does, one write for each.
type workloadsOf struct{ *node }

func (w workloadsOf) Tighten(c policy.Change) error {
	w.narrow.Tighten(c)
	for _, name := range slices.Sorted(maps.Keys(w.kernel.workloads)) {
		b := w.kernel.workloads[name]
		if !b.any || !Shuts(c, b.policy) {
			continue
		}
		b.any = false
		if err := w.write(func() { w.kernel.workloads[name] = b }); err != nil {
			return err
		}
	}
	return nil
}

func (w workloadsOf) Loosen(c policy.Change) error {
	w.narrow.Loosen(c)
	want := map[string]binding{"node": {policy.DefaultPolicy, w.narrow.Open(c.Next.Policy(policy.DefaultPolicy))}}
	for _, b := range c.Next.Workloads() {
		want[b.Name] = binding{b.Policy, w.narrow.Open(c.Next.Policy(b.Policy))}
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		in := want[name].policy
		if w.narrow.Pending(in) && w.in[name] != in {
			in = 0 // nothing passes the core yet
		}
		if w.kernel.workloads[name] == want[name] {
			w.in[name] = in
			continue
		}
		if err := w.write(func() { w.kernel.workloads[name], w.in[name] = want[name], in }); err != nil {
			return err
		}
	}
	for _, name := range workloadNames {
		if _, ok := w.kernel.workloads[name]; !ok || want[name] != (binding{}) {
			continue
		}
		if err := w.write(func() { delete(w.kernel.workloads, name); delete(w.in, name) }); err != nil {
			return err
		}
	}
	return nil
}

// probe is a flow of a workload: what it says it wants ("": nothing that can be
// read), and where to.
type probe struct {
	workload  string
	dst       netip.AddrPort
	transport policy.Transport
	name      string
}

// open are the probes that pass now.
func (n *node) open(probes []probe) map[probe]bool {
	out := map[probe]bool{}
	for _, p := range probes {
		if n.passes(p) {
			out[p] = true
		}
	}
	return out
}

// passes judges a flow as the kernel's programs do (bpf/common.h), and what they
// send to the core as that does.
func (n *node) passes(p probe) bool {
	switch n.verdict(p) {
	case policy.Direct:
		return true
	case policy.Inspect:
		return p.name != "" && n.kernel.proves(n.kernel.bound(p).policy, p)
	case policy.Proxy:
		return p.transport == policy.TCP && n.core(p)
	}
	return false
}

// bound is what the kernel knows of a flow's workload.
func (k *kernel) bound(p probe) binding {
	if b, ok := k.workloads[p.workload]; ok {
		return b
	}
	return k.workloads["node"] // policy 0 has no entries
}

// verdict is the kernel's for a flow.
func (n *node) verdict(p probe) policy.Verdict {
	b := n.kernel.bound(p)
	v := n.kernel.lookup(b.policy, p)
	if v.Verdict == policy.Deny && b.any {
		return policy.Direct
	}
	return v.Verdict
}

// core is what the forwarding core does with a flow; that of a daemon that is
// gone does nothing.
func (n *node) core(p probe) bool {
	id, ok := n.in[p.workload]
	if !ok {
		id = n.in["node"] // 0 has no policy
	}
	pol := n.Policy(id)
	if pol == nil || n.crashes && n.failed {
		return false
	}
	f := policy.Flow{Transport: p.transport, Dst: p.dst, Names: n.known[id][p.dst.Addr()]}
	if p.name == "" {
		c := pol.Candidates(f)
		return c.Verdict != policy.Deny && c.Opaque != nil
	}
	d, _ := pol.DecideTLS(f, p.name)
	return d.Verdict != policy.Deny
}

// by names the entries that decide about a flow, and whose they are.
func (n *node) by(p probe) string {
	b := n.kernel.bound(p)
	_, exact := n.kernel.addrs[addrKey(b.policy, p)]
	net, around := n.kernel.longest(b.policy, p)
	return fmt.Sprint(b.policy, exact, around, net.Prefixlen, n.known[b.policy][p.dst.Addr()])
}

func addrKey(id policy.PolicyID, p probe) tables.AddrKey {
	return tables.AddrKey{Policy: uint32(id), Port: tables.NetworkOrder(p.dst.Port()), Proto: uint8(p.transport), Addr: p.dst.Addr().As16()}
}

// longest is the longest prefix that a flow goes to.
func (k *kernel) longest(id policy.PolicyID, p probe) (found tables.CidrKey, ok bool) {
	addr := netip.AddrFrom16(p.dst.Addr().As16())
	for key := range k.nets {
		if key.Policy != uint32(id) || key.Port != tables.NetworkOrder(p.dst.Port()) || key.Proto != uint8(p.transport) || ok && key.Prefixlen < found.Prefixlen {
			continue
		}
		bits := int(key.Prefixlen) - 64
		if netip.PrefixFrom(addr, bits).Masked() == netip.PrefixFrom(netip.AddrFrom16(key.Addr), bits).Masked() {
			found, ok = key, true
		}
	}
	return found, ok
}

// lookup is lookup_verdict of the programs.
func (k *kernel) lookup(id policy.PolicyID, p probe) policy.Way {
	way := func(v tables.Verdict) policy.Way {
		return policy.Way{Verdict: policy.Verdict(v.Verdict), Straight: v.Straight != 0}
	}
	around, _ := k.longest(id, p)
	return way(k.addrs[addrKey(id, p)]).Join(way(k.nets[around]), p.transport)
}

// proves says whether the address has the name.
func (k *kernel) proves(id policy.PolicyID, p probe) bool {
	key := tables.NameKey{Policy: uint32(id), Port: tables.NetworkOrder(p.dst.Port()), Len: uint16(len(p.name)), Addr: p.dst.Addr().As16()}
	copy(key.Name[:], p.name)
	_, ok := k.names[key]
	return ok
}

// text is all that the kernel's tables have, whatever the numbers of the sets.
func (k *kernel) text() string {
	var out []string
	sets := map[uint32][]string{}
	for e, v := range k.endpoints {
		sets[e.Set] = append(sets[e.Set], fmt.Sprint(e.Slot, e.Port, e.Addr, v))
	}
	value := func(v tables.Verdict) string {
		slices.Sort(sets[v.Set])
		return fmt.Sprint(v.Verdict, v.Straight, v.Slots, sets[v.Set])
	}
	for a, v := range k.addrs {
		out = append(out, fmt.Sprint("address ", a.Policy, netip.AddrFrom16(a.Addr).Unmap(), tables.NetworkOrder(a.Port), a.Proto, value(v)))
	}
	for a, v := range k.nets {
		out = append(out, fmt.Sprint("prefix ", a.Policy, netip.AddrFrom16(a.Addr), a.Prefixlen, tables.NetworkOrder(a.Port), a.Proto, value(v)))
	}
	for a := range k.known {
		out = append(out, fmt.Sprint("known ", a.Policy, netip.AddrFrom16(a.Addr).Unmap()))
	}
	for a := range k.names {
		out = append(out, fmt.Sprint("name ", a.Policy, netip.AddrFrom16(a.Addr).Unmap(), tables.NetworkOrder(a.Port), string(a.Name[:a.Len])))
	}
	for w, b := range k.workloads {
		out = append(out, fmt.Sprint("workload ", w, b))
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}
