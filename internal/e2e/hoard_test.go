// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/policy"
)

// inNormalTime bounds a bystander's request: less than a resolver's or a kernel's
// first timeout, as nothing may be lost.
const inNormalTime = 2 * time.Second

// slowService has names that a workload may ask for.
const slowService = `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: slow, namespace: default}
spec:
  hosts: ["*.slow.example"]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: NONE
`

// hoarding runs hoard.py as a workload until the function that it returns is called.
func (n *node) hoarding(t *testing.T, cg *world.Cgroup, kind string, count int, dests ...string) (end func()) {
	t.Helper()
	c := n.client(t, cg, python(t), append([]string{script(t, "hoard.py"), kind, strconv.Itoa(count)}, dests...)...)
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.Stderr = os.Stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	return func() {
		_ = in.Close()
		if err := c.Wait(); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

// unhurt fails the test if a bystander has to wait, or goes without.
func (n *node) unhurt(t *testing.T, during string) {
	t.Helper()
	for range 3 {
		for _, flag := range []string{"-4", "-6"} {
			if a := n.curl(t, n.in, flag, "http://"+world.GoogleAPIs); a.status != 200 || a.took > inNormalTime {
				t.Errorf("%s: a bystander, %s: %+v", during, flag, a)
			}
		}
		for _, server := range []string{world.ResolverV4, world.ResolverV6} {
			begin := stopwatch()
			if p := n.probe(t, n.in, "dns", "tcp", hostPort(server, 53), world.GoogleAPIs, "A"); p.Rcode != "NOERROR" || begin() > inNormalTime {
				t.Errorf("%s: a bystander, DNS over TCP by %s: %+v in %v", during, server, p, begin())
			}
		}
	}
	if st := n.status(t); !st.Ready {
		t.Errorf("%s: %+v", during, st)
	}
}

// gauge is the value of a metric, labels and all.
func (n *node) gauge(t *testing.T, name string) float64 {
	t.Helper()
	v, err := strconv.ParseFloat(n.metric(t, name), 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return v
}

// hogged starts a daemon with a workload that is about to take all that it gets.
func hogged(t *testing.T, change func(*world.World), prefix []string, args ...string) (n *node, hog *world.Cgroup) {
	t.Helper()
	n = prepare(t, seed(t, "googleapis.yaml"), change, args...)
	hog, err := n.d.Root.Child("hog")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = hog.Close() })
	n.write(t, "workloads.yaml", n.workload(t, "hog", "default", "hog", ""))
	n.write(t, "slow.yaml", slowService)
	n.d.Prefix = prefix
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.learnIn(t, hog, world.GoogleAPIs)
	return n, hog
}

// TestHoarders: whatever a workload keeps open at a daemon with few descriptors, and
// however often it comes again, another workload is served; the daemon does not grow,
// and has everything back at the end.
func TestHoarders(t *testing.T) {
	t.Parallel()
	testenv.RequireTool(t, "prlimit")
	const files = 400
	n, hog := hogged(t, func(w *world.World) {
		for i := range 600 {
			w.DNS.Silence(fmt.Sprintf("q%d.slow.example", i))
		}
	}, []string{"prlimit", fmt.Sprintf("--nofile=%d:%d", files, files)})
	n.unhurt(t, "nobody hoards") // and the caches of the daemon are warm
	http := []string{hostPort(n.GoogleAPIs.V4.String(), 80), hostPort(n.GoogleAPIs.V6.String(), 80)}
	dns := []string{hostPort(world.ResolverV4, 53), hostPort(world.ResolverV6, 53)}
	const used = `egressd_workload_used{resource="descriptors",workload="default/hog"}`
	idle := map[string]float64{}
	var end func()
	for _, name := range []string{"process_open_fds", "go_goroutines", "process_resident_memory_bytes"} {
		idle[name] = n.gauge(t, name)
	}
	for _, kind := range []string{"silent", "slow", "keep", "dns", "ask"} {
		switch kind {
		case "dns":
			end = n.hoarding(t, hog, kind, 600, dns...)
			eventually(t, 4*soon, "its DNS connections are refused", func() bool { return n.status(t).DNS["connection_overload"] > 0 })
		case "ask":
			ends, keeps := n.hoarding(t, hog, "keep", 600, http...), n.hoarding(t, hog, kind, 600, dns...)
			end = func() { ends(); keeps() }
			eventually(t, 4*soon, "its questions are refused", func() bool { return n.status(t).DNS["overload"] > 0 })
		default:
			end = n.hoarding(t, hog, kind, 600, http...)
			eventually(t, 4*soon, kind+": it has its share", func() bool { return n.gauge(t, `egressd_workload_full{workload="default/hog"}`) == 1 })
			n.event(t, "a refusal by quota", func(e flow.Event) bool {
				return e.Workload == "default/hog" && !e.Allowed && e.Reason == policy.ReasonQuota && e.Detail != ""
			})
		}
		n.unhurt(t, kind)
		if fds := n.gauge(t, "process_open_fds"); fds > files-20 {
			t.Errorf("%s: %v descriptors of %d are open", kind, fds, files)
		}
		if rss := n.gauge(t, "process_resident_memory_bytes"); rss > idle["process_resident_memory_bytes"]+48<<20 {
			t.Errorf("%s: the daemon has %v MB, %v before", kind, rss/(1<<20), idle["process_resident_memory_bytes"]/(1<<20))
		}
		end()
		eventually(t, 4*soon, kind+": all is given back", func() bool {
			return n.gauge(t, used) == 0 && n.gauge(t, "process_open_fds") < idle["process_open_fds"]+20 && n.gauge(t, "go_goroutines") < idle["go_goroutines"]+20+32 // 32 wait for the next connections
		})
	}
}

// TestHoardersOfPorts: connections that are redirected on loopback need an ephemeral
// port each. With 600 of them a workload that keeps all it gets, also connections that
// the daemon has ended, leaves some to others.
func TestHoardersOfPorts(t *testing.T) {
	t.Parallel()
	n, hog := hogged(t, func(w *world.World) {
		err := w.Node.Do(func() error {
			return os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("20000 20599"), 0)
		})
		if err != nil {
			t.Fatal(err)
		}
	}, nil)
	n.unhurt(t, "nobody hoards")
	for _, addr := range []string{n.GoogleAPIs.V4.String(), n.GoogleAPIs.V6.String()} {
		for _, kind := range []string{"keep", "ended"} {
			end := n.hoarding(t, hog, kind, 700, hostPort(addr, 80))
			eventually(t, 4*soon, kind+": it has its share", func() bool { return n.gauge(t, `egressd_workload_full{workload="default/hog"}`) == 1 })
			n.event(t, "a refusal by quota", func(e flow.Event) bool {
				return e.Workload == "default/hog" && !e.Allowed && e.Reason == policy.ReasonQuota
			})
			n.unhurt(t, kind+" by "+addr)
			end()
			eventually(t, 4*soon, kind+": all is given back", func() bool {
				return n.gauge(t, `egressd_workload_used{resource="redirected",workload="default/hog"}`) == 0 &&
					n.gauge(t, `egressd_workload_used{resource="ports",workload="default/hog"}`) == 0
			})
		}
	}
}

// TestWorkloadConnections: the operator's bound holds, and quiet connections that
// stand at it make room for those that come.
func TestWorkloadConnections(t *testing.T) {
	t.Parallel()
	n, hog := hogged(t, nil, nil, "--workload-connections", "8", "--recycle-timeout", "1s")
	dest := hostPort(n.GoogleAPIs.V4.String(), 80)
	end := n.hoarding(t, hog, "keep", 8, dest)
	defer func() { end() }()
	const used = `egressd_workload_used{resource="connections",workload="default/hog"}`
	eventually(t, soon, "it has its 8", func() bool { return n.gauge(t, used) == 8 })
	if a := n.curl(t, n.in, "http://"+world.GoogleAPIs); a.status != 200 {
		t.Errorf("another workload: %+v", a)
	}
	eventually(t, 2*soon, "a ninth of its own is let in", func() bool {
		return n.curl(t, hog, "http://"+world.GoogleAPIs).status == 200
	})
	eventually(t, soon, "connections that made room are counted", func() bool {
		return n.gauge(t, "egressd_connections_recycled_total") > 0
	})
	if v := n.gauge(t, used); v > 8 {
		t.Errorf("it has %v", v)
	}
}
