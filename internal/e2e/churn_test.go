// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/world"
)

// bound is how many cgroups the kernel knows as workloads.
func (n *node) bound(t *testing.T) int {
	t.Helper()
	v, err := strconv.Atoi(n.metric(t, `egressd_map_entries{map="egd_workloads"}`))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestManyCgroups: 20,000 cgroups that a Workload describes have its policy, the
// last one as well, and what they cost when nothing happens is little.
func TestManyCgroups(t *testing.T) {
	t.Parallel()
	const many = 20_000
	n := prepare(t, map[string]string{
		"prod.yaml": strings.Replace(hosts("prod", world.GoogleAPIs), "spec:", "spec:\n  exportTo: [prod]", 1),
	}, nil)
	slice := childOf(t, n.d.Root, "pods")
	n.write(t, "workloads.yaml", n.workload(t, "pods", "prod", "pods/*", ""))
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := n.bound(t)
	t.Cleanup(func() {
		for i := range many {
			_ = os.Remove(filepath.Join(slice.Path(), strconv.Itoa(i)))
		}
	})
	took := stopwatch()
	for i := range many {
		if err := os.Mkdir(filepath.Join(slice.Path(), strconv.Itoa(i)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	made := took()
	last := childOf(t, slice, "last")
	eventually(t, 6*soon, "the last one is the workload", func() bool { return len(n.probe(t, last, "lookup", world.GoogleAPIs).Addrs) > 0 })
	t.Logf("%d cgroups made in %v, bound after %v", many, made, took())
	if got := n.bound(t); got != before+many+1 {
		t.Errorf("%d entries, want %d", got, before+many+1)
	}
	if p := n.probe(t, n.in, "lookup", world.GoogleAPIs); len(p.Addrs) > 0 {
		t.Errorf("another workload: %+v", p)
	}
	if left := n.metric(t, "egressd_cgroups_unbound"); left != "0" {
		t.Errorf("%s cgroups are not bound", left)
	}
	if log := n.d.Log(); strings.Contains(log, "level=ERROR") || strings.Contains(log, "cgroups cannot be watched") || strings.Contains(log, "notification of new cgroups") {
		t.Errorf("the log complains")
	}
	cpu, err := n.d.CPU()
	if err != nil {
		t.Fatal(err)
	}
	<-time.After(8 * time.Second) // what is measured
	now, err := n.d.CPU()
	if err != nil {
		t.Fatal(err)
	}
	if share := (now - cpu).Seconds() / 8; share > 0.3 {
		t.Errorf("%.2f of a core, while nothing happens", share)
	} else {
		t.Logf("%.2f of a core, while nothing happens", share)
	}
}

// TestChurn: cgroups that come and go, of workloads with policies of their own,
// have the right one, and leave nothing behind.
func TestChurn(t *testing.T) {
	t.Parallel()
	const workloads, waves, each = 20, 20, 50
	config := map[string]string{}
	name := func(k int) string { return fmt.Sprintf("k%d.example.net", k%workloads) }
	for k := range workloads {
		config[fmt.Sprintf("k%d.yaml", k)] = strings.Replace(hosts(fmt.Sprint("k", k), name(k)),
			"spec:", fmt.Sprintf("spec:\n  exportTo: [ns%d]", k), 1)
	}
	n := prepare(t, config, func(w *world.World) {
		for k := range workloads {
			w.DNS.SetA(name(k), time.Minute, netip.AddrFrom4([4]byte{151, 101, 9, byte(k + 1)}))
			w.DNS.SetAAAA(name(k), time.Minute)
		}
	})
	slice := childOf(t, n.d.Root, "pods")
	text := ""
	for k := range workloads {
		text += n.workload(t, fmt.Sprint("w", k), fmt.Sprint("ns", k), fmt.Sprintf("pods/w%d-*", k), "")
	}
	n.write(t, "workloads.yaml", text)
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	descriptors := func() int {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", n.pid(t)))
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	entries, fds := n.bound(t), descriptors()
	took := stopwatch()
	for wave := range waves {
		var alive []*world.Cgroup
		for i := range each {
			cg, err := slice.Child(fmt.Sprintf("w%d-%d-%d", i%workloads, wave, i))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = cg.Close() }) // it is gone already, unless the test failed
			alive = append(alive, cg)
		}
		for i := wave % 10; i < each; i += 10 {
			own := func() bool { return len(n.probe(t, alive[i], "lookup", name(i)).Addrs) > 0 }
			eventually(t, soon, "its own name", own)
			if p := n.probe(t, alive[i], "lookup", name(i+1)); len(p.Addrs) > 0 {
				t.Errorf("the name of another workload: %+v", p)
			}
		}
		for _, cg := range alive {
			if err := cg.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("%d cgroups in %v", waves*each, took())
	eventually(t, soon, "nothing of them is left", func() bool { return n.bound(t) == entries })
	eventually(t, 2*soon, "no descriptor is left", func() bool { return descriptors() <= fds+2 })
	if log := n.d.Log(); strings.Contains(log, "level=ERROR") {
		t.Errorf("the log complains")
	}
}
