// SPDX-License-Identifier: Apache-2.0

package control

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"

	"github.com/egressd/egressd/internal/learned"
	"github.com/egressd/egressd/policy"
)

// somePairs is how many pairs of policies TestPipeline tries, faultsEach at how
// many places something fails in each.
const (
	somePairs  = 40
	faultsEach = 8
)

const changeOver = "workloads change over"

// leaving are the workloads that only old describes.
func leaving(old, next *policy.Snapshot) map[string]bool {
	out := map[string]bool{}
	for _, w := range old.Workloads() {
		out[w.Name] = true
	}
	for _, w := range next.Workloads() {
		delete(out, w.Name)
	}
	return out
}

// between checks a node while it goes from one policy to the next: nothing is
// open that neither allows, and, unless something fails, nothing is shut that
// both allow.
type between struct {
	node         *node
	probes       []probe
	old, next    map[probe]bool
	decided      func(probe) bool // the core of one of them lets it pass
	mayShut      func(probe) bool
	leaves       map[string]bool // workloads that are not described any more
	opened, shut string
}

func (b *between) check(at string) {
	for _, p := range b.probes {
		switch is := b.node.passes(p); {
		case is && b.leaves[p.workload] && b.node.step == changeOver && b.node.verdict(p) == policy.Proxy:
			// Its cgroup is the node's in the kernel, whose policy the core changes a
			// moment later; connections that it has let pass are asked again.
		case is && b.node.verdict(p) == policy.Proxy && b.decided(p):
			// It goes to where the core finds the name, as the policy says.
		case is && !b.old[p] && !b.next[p] && b.opened == "":
			b.opened = fmt.Sprintf("%s: %+v is open", at, p)
		case !is && b.old[p] && b.next[p] && !b.mayShut(p) && b.shut == "":
			b.shut = fmt.Sprintf("%s: %+v is shut", at, p)
		}
	}
}

// rest is what is open when a policy has come in force, and how many writes it
// took.
func rest(t *testing.T, old, next *policy.Snapshot, seed uint64) (after *node, writes int) {
	t.Helper()
	n := begun(t, old, seed)
	if err := n.pipe.Apply(next); err != nil {
		t.Fatal(err)
	}
	return n, n.writes
}

// numbered has each policy keep its number, as if all that it knows were of a workload
// that has it.
func numbered(saved []learned.Saved) ([]learned.Saved, func(string) (policy.PolicyID, bool)) {
	for i := range saved {
		saved[i].Workloads = []string{strconv.Itoa(int(saved[i].Policy))}
	}
	return saved, func(workload string) (policy.PolicyID, bool) {
		id, err := strconv.Atoi(workload)
		return policy.PolicyID(id), err == nil
	}
}

// fresh is the text of the kernel's tables of a node that was never anything
// else, with what another one has learned.
func fresh(t *testing.T, s *policy.Snapshot, like *node) string {
	t.Helper()
	n := newNode(t, newKernel(), s)
	if err := n.pipe.Apply(s); err != nil {
		t.Fatal(err)
	}
	if _, err := n.names.Restore(numbered(like.names.Dump())); err != nil {
		t.Fatal(err)
	}
	return n.kernel.text()
}

// moves says whether a workload changes over from or to a policy that is there
// before and after: what the policy of one side says for others is shut for it
// until it has changed over. So is, where ALLOW_ANY begins or ends, what one side
// opens by name and the other by that.
func moves(old, next *policy.Snapshot) func(probe) bool {
	ids := func(s *policy.Snapshot) map[string]policy.PolicyID {
		out := map[string]policy.PolicyID{}
		for _, w := range workloadNames {
			out[w] = policy.DefaultPolicy
		}
		for _, w := range s.Workloads() {
			out[w.Name] = w.Policy
		}
		return out
	}
	was, is := ids(old), ids(next)
	return func(p probe) bool {
		from, to := was[p.workload], is[p.workload]
		return from != to && (old.Policy(to) != nil || next.Policy(from) != nil) ||
			old.Policy(from).AllowsUnknown() != next.Policy(to).AllowsUnknown()
	}
}

// differ says whether two policies let a flow pass by different entries of the
// tables, of which one goes before the other comes, or the core denies by one of
// them what the kernel lets pass there: a name at an address that a rule opens
// for whatever comes.
func differ(before, after *node) func(probe) bool {
	return func(p probe) bool {
		return before.by(p) != after.by(p) || p.transport == policy.TCP && (!before.core(p) || !after.core(p))
	}
}

// decided says whether the core of one of two nodes lets a flow pass that comes
// to it.
func decided(before, after *node) func(probe) bool {
	return func(p probe) bool { return before.core(p) || after.core(p) }
}

func either(f, g func(probe) bool) func(probe) bool {
	return func(p probe) bool { return f(p) || g(p) }
}

func always(probe) bool { return true }

// restarted is the daemon after a crash. It goes by the tables that are there; or
// makes them anew, as the loader does at a start (loader.Options.Renew): where
// ALLOW_ANY opens what the tables do not know, those that were learned are needed
// in them before they are in force.
func restarted(t *testing.T, n *node, b *between, next *policy.Snapshot, renew bool) *node {
	t.Helper()
	if renew {
		return newNode(t, newKernel(), next)
	}
	n = newNode(t, n.kernel, next)
	b.node, n.check = n, b.check
	return n
}

func allowsAny(s *policy.Snapshot) bool {
	return slices.ContainsFunc(s.Policies(), func(id policy.PolicyID) bool { return s.Policy(id).AllowsUnknown() })
}

// TestPipeline: on the way between two policies nothing is open that neither
// allows, whatever fails and whenever, or where the daemon dies; nothing is shut
// that both allow when nothing fails; and the next attempt makes everything what
// the policy says.
func TestPipeline(t *testing.T) {
	all := probes()
	pairs, faults, changed := 0, 0, 0
	for seed := uint64(0); pairs < somePairs; seed++ {
		g := &generator{Rand: rand.New(rand.NewPCG(seed, 1))}
		old, next, ok := g.pair()
		if !ok {
			continue
		}
		pairs++
		after, writes := rest(t, old, next, seed)
		before := begun(t, old, seed)
		was, is := before.open(all), after.open(all)
		if !maps.Equal(was, is) {
			changed++
		}
		if got, want := after.kernel.text(), fresh(t, next, after); got != want {
			t.Fatalf("seed %d: after the change\n%s\nwant\n%s", seed, got, want)
		}
		run := func(failAt int, crashes bool) {
			t.Helper()
			n := begun(t, old, seed)
			b := &between{node: n, probes: all, old: was, next: is, decided: decided(before, after), leaves: leaving(old, next), mayShut: either(moves(old, next), differ(before, after))}
			if failAt > 0 {
				b.mayShut = always
			}
			n.check, n.failAt, n.crashes = b.check, failAt, crashes
			err := n.pipe.Apply(next)
			if (err != nil) != n.failed {
				t.Fatalf("seed %d, failing at %d: %v", seed, failAt, err)
			}
			saved := n.names.Dump()
			if crashes {
				n = restarted(t, n, b, next, allowsAny(old) || allowsAny(next))
			}
			n.failAt = 0
			if err := n.pipe.Apply(next); err != nil {
				t.Fatal(err)
			}
			if crashes {
				if _, err := n.names.Restore(numbered(saved)); err != nil {
					t.Fatal(err)
				}
			}
			if b.opened != "" || b.shut != "" {
				t.Fatalf("seed %d, failing at %d (crash %t): %s%s\n%s\n%s", seed, failAt, crashes, b.opened, b.shut, old.Text(), next.Text())
			}
			if got, want := n.kernel.text(), fresh(t, next, n); got != want {
				t.Fatalf("seed %d, failing at %d (crash %t): repaired to\n%s\nwant\n%s", seed, failAt, crashes, got, want)
			}
			if n.pipe.Failed() != nil {
				t.Errorf("seed %d: %+v is said to fail still", seed, n.pipe.Failed())
			}
		}
		run(0, false)
		for at := 1; at <= writes; at += 1 + writes/faultsEach {
			run(at, false)
			run(at, true)
			faults += 2
		}
	}
	if changed < pairs/2 || faults < 4*pairs {
		t.Errorf("of %d pairs %d differ, with %d faults: the test asks too little", pairs, changed, faults)
	}
	t.Logf("%d pairs, %d faults", pairs, faults)
}

// TestPipelineOrder: where two steps are swapped, the test above would see it.
func TestPipelineOrder(t *testing.T) {
	all := probes()
	for _, c := range []struct {
		first, second, found string
		from                 uint64 // a seed that shows it, so that it need not be looked for
	}{
		{"workloads lose what is not open any more", "kernel tables are tightened", "open", 57},
		{"decisions go by the new policy", "workloads change over", "shut", 171},
		{"kernel tables are opened", "workloads change over", "shut", 171},
		{"learned addresses are opened", "workloads change over", "shut", 171},
		{"workloads change over", "kernel tables of policies that workloads left", "open", 4},
		{"workloads change over", "learned addresses of policies that workloads left", "open", 4},
		{"workloads change over", "kernel tables of policies that are gone", "shut", 949},
		{"workloads change over", "learned addresses of policies that are gone", "shut", 949},
		{"kernel tables of policies that workloads left", "workloads get what is open now", "open", 45},
	} {
		seen := map[string]string{}
		for seed := c.from; seed < c.from+1000 && seen[c.found] == ""; seed++ {
			g := &generator{Rand: rand.New(rand.NewPCG(seed, 1))}
			old, next, ok := g.pair()
			if !ok {
				continue
			}
			after, _ := rest(t, old, next, seed)
			n := begun(t, old, seed)
			before := begun(t, old, seed)
			b := &between{node: n, probes: all, old: n.open(all), next: after.open(all), decided: decided(before, after), leaves: leaving(old, next), mayShut: either(moves(old, next), differ(before, after))}
			n.check = b.check
			swapSteps(t, n.pipe.steps, c.first, c.second)
			_ = n.pipe.Apply(next)
			if b.opened != "" {
				seen["open"] = b.opened
			}
			if b.shut != "" {
				seen["shut"] = b.shut
			}
		}
		if seen[c.found] == "" {
			t.Errorf("%q before %q: nothing is found to be %s", c.second, c.first, c.found)
		}
	}
}

func swapSteps(t *testing.T, steps []Step, a, b string) {
	t.Helper()
	at := func(name string) int {
		i := slices.IndexFunc(steps, func(s Step) bool { return s.Name == name })
		if i < 0 {
			t.Fatalf("no step is called %q", name)
		}
		return i
	}
	i, j := at(a), at(b)
	steps[i], steps[j] = steps[j], steps[i]
}

// TestPipelineFailure: each step that fails is named, with the time since when,
// until it does not; those before the change of user space leave the policy in
// force that was, and those after let the rest go on.
func TestPipelineFailure(t *testing.T) {
	g := &generator{Rand: rand.New(rand.NewPCG(3, 1))}
	old, next, _ := g.pair()
	for old == nil || next == nil || old.Hash() == next.Hash() {
		old, next, _ = g.pair()
	}
	for i, name := range begun(t, old, 1).pipe.Steps() {
		n := begun(t, old, 1)
		done := map[string]bool{}
		for j, s := range n.pipe.steps {
			n.pipe.steps[j].do = func(c policy.Change) error {
				if j == i {
					return errBroken
				}
				done[s.Name] = true
				return s.do(c)
			}
		}
		err := n.pipe.Apply(next)
		var step *StepError
		if !errors.Is(err, errBroken) || !errors.As(err, &step) || step.Step != name {
			t.Errorf("%s: %v", name, err)
			continue
		}
		f := n.pipe.Failed()
		if f == nil || f.Step != name || f.Since.IsZero() || f.InForce != step.InForce || f.InForce != (n.Snapshot() == next || name == "decisions go by the new policy") {
			t.Errorf("%s: the status says %+v", name, f)
		}
		if last := "gateway listeners"; done[last] != (f.InForce && name != last) {
			t.Errorf("%s: done as well: %v", name, done)
		}
		since := f.Since
		_ = n.pipe.Apply(next)
		if f := n.pipe.Failed(); f == nil || !f.Since.Equal(since) {
			t.Errorf("%s: after another attempt it fails since %+v, want %v", name, f, since)
		}
		n.pipe.steps = n.pipe.order()
		if err := n.pipe.Apply(next); err != nil || n.pipe.Failed() != nil || n.Snapshot() != next {
			t.Errorf("%s: repaired with %v, %+v", name, err, n.pipe.Failed())
		}
	}
}
