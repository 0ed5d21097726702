// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/world"
)

// workload describes the cgroups below the captured one that a pattern names.
func (n *node) workload(t *testing.T, name, namespace, pattern, more string) string {
	t.Helper()
	root, err := world.CgroupRoot()
	if err != nil {
		t.Fatal(err)
	}
	captured, err := filepath.Rel(root, n.d.Root.Path())
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("apiVersion: egressd.dev/v1\nkind: Workload\nmetadata: {name: %s, namespace: %s}\nspec: {cgroups: [%q]%s}\n---\n",
		name, namespace, captured+"/"+pattern, more)
}

// TestWorkloads: what is open to a workload depends on who it is: by its
// namespace, its mode, its labels. Cgroups that come later are told apart like
// those that were there, and a connection outlives that its workload gets a
// policy of its own.
func TestWorkloads(t *testing.T) {
	t.Parallel()
	child := func(n *node, name string) *world.Cgroup {
		cg, err := n.d.Root.Child(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cg.Close() }) // also when the daemon's root goes first
		return cg
	}
	n := prepare(t, map[string]string{
		"all.yaml": tcp("all", world.API, "7"),
		"prod.yaml": strings.Replace(tcp("prod", world.GoogleAPIs, "443"), "spec:", "spec:\n  exportTo: [prod]", 1) +
			strings.Replace(tcp("own", "own.example", "80"), "{name: own}", "{name: own, namespace: prod}", 1),
	}, nil)
	web := child(n, "web.service")
	n.write(t, "workloads.yaml", n.workload(t, "web", "prod", "*.service", "")+
		n.workload(t, "trial", "test", "trial.*", ", mode: audit")+
		n.workload(t, "free", "test", "free", ", mode: 'off'"))
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	names := map[string]string{}
	for _, w := range n.status(t).Workloads {
		names[w.Name] = w.Mode
	}
	if names["prod/web"] != "enforce" || len(names) != 2 {
		t.Errorf("workloads %v, want the node and prod/web: the others have no cgroup yet", names)
	}
	google := func(cg *world.Cgroup) int { return n.curl(t, cg, "https://"+world.GoogleAPIs).status }
	if got := google(web); got != 200 {
		t.Errorf("the namespace to which it is exported: %d", got)
	}
	if got := google(n.in); got == 200 {
		t.Error("another namespace reaches what is not exported to it")
	}
	late := child(n, "late.service")
	eventually(t, 5*time.Second, "a cgroup that came later is the workload", func() bool { return google(late) == 200 })

	trial := child(n, "trial.scope")
	eventually(t, 5*time.Second, "the workload in audit mode", func() bool {
		return n.probe(t, trial, "dial", hostPort(world.StrangerV4, 443)).Error == ""
	})
	n.event(t, "what would be denied", func(e flow.Event) bool {
		return e.Workload == "test/trial" && e.WouldDeny && e.Dst.String() == hostPort(world.StrangerV4, 443)
	})
	free := child(n, "free")
	eventually(t, 5*time.Second, "the workload that is not under policy", func() bool {
		return n.probe(t, free, "dial", hostPort(world.StrangerV4, 443)).Error == ""
	})
	if p := n.probe(t, web, "dial", hostPort(world.StrangerV4, 443)); p.Errno != syscall.ECONNREFUSED {
		t.Errorf("enforce: %+v", p)
	}

	// The node's connection goes on when an authorization policy gives the
	// node another policy than before; that of the namespace it is against ends.
	n.learn(t, world.API)
	n.learnIn(t, web, world.API)
	kept, ended := n.openIn(t, n.in, n.Echo.Addr.String()), n.openIn(t, web, n.Echo.Addr.String())
	n.write(t, "deny.yaml", `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: not-prod}
spec:
  targetRefs: [{group: networking.istio.io, kind: ServiceEntry, name: all}]
  action: DENY
  rules: [{from: [{source: {namespaces: [prod]}}]}]
`)
	eventually(t, 5*time.Second, "the connection of the namespace is cut", func() bool { return !ended.echo("x") })
	for range 3 {
		if !kept.echo("still here") {
			t.Fatal("a connection that stays allowed was ended")
		}
	}
	if p := n.probe(t, web, "dial", n.Echo.Addr.String()); p.Errno != syscall.ECONNREFUSED {
		t.Errorf("denied by the authorization policy: %+v", p)
	}
	if p := n.probe(t, web, "lookup", world.API); len(p.Addrs) > 0 {
		t.Errorf("the name of what is denied: %+v", p)
	}
	n.event(t, "the policy that denies", func(e flow.Event) bool {
		return e.Workload == "prod/web" && !e.Allowed && e.Rule != nil && e.Rule.Kind == "AuthorizationPolicy"
	})
}

// TestNodeServices: the node's own services are not under policy, and a
// Workload that describes one of them has its way.
func TestNodeServices(t *testing.T) {
	t.Parallel()
	n := prepare(t, map[string]string{"all.yaml": tcp("all", world.API, "7")}, nil, "--node-services", "egd-*-captured-*/dhcp.service,egd-*-captured-*/kubelet.service")
	n.write(t, "workloads.yaml", n.workload(t, "kubelet", "default", "kubelet.service", ""))
	groups := map[string]*world.Cgroup{}
	for _, name := range []string{"dhcp.service", "kubelet.service"} {
		cg, err := n.d.Root.Child(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cg.Close() }) // also when the daemon's root goes first
		groups[name] = cg
	}
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{world.StrangerV4, world.StrangerV6} {
		if p := n.probe(t, groups["dhcp.service"], "dial", hostPort(addr, 443)); p.Error != "" {
			t.Errorf("a service of the node, %s: %+v", addr, p)
		}
		if p := n.probe(t, groups["kubelet.service"], "dial", hostPort(addr, 443)); p.Errno != syscall.ECONNREFUSED {
			t.Errorf("one that a Workload describes, %s: %+v", addr, p)
		}
		if p := n.probe(t, n.in, "dial", hostPort(addr, 443)); p.Errno != syscall.ECONNREFUSED {
			t.Errorf("another process, %s: %+v", addr, p)
		}
	}
	if text := n.egressd(t, "status").stdout; !strings.Contains(text, "node-services, mode off") {
		t.Errorf("status does not name the services that are not under policy:\n%s", text)
	}
}

// TestAllowAny: with a MeshConfig that says so, what no rule names passes, and
// what rules speak about is still decided by them.
func TestAllowAny(t *testing.T) {
	t.Parallel()
	mesh := func(mode string) string {
		return "apiVersion: egressd.dev/v1\nkind: MeshConfig\nmetadata: {name: mesh}\nspec: {outboundTrafficPolicy: {mode: " + mode + "}}\n"
	}
	n := start(t, map[string]string{"mesh.yaml": mesh("ALLOW_ANY"), "api.yaml": hosts("api", world.API)}, nil)
	open := func() bool { return n.probe(t, n.in, "dial", hostPort(world.StrangerV4, 443)).Error == "" }
	if !open() || n.probe(t, n.in, "dial", hostPort(world.StrangerV6, 443)).Error != "" {
		t.Error("what no rule names does not pass under ALLOW_ANY")
	}
	if a := n.curl(t, n.in, "https://"+world.GoogleAPIs); a.status != 200 {
		t.Errorf("a name that no rule has, under ALLOW_ANY: %+v", a)
	}
	if a := n.curl(t, n.in, "https://"+world.API); a.status != 200 {
		t.Errorf("a name that a rule has: %+v", a)
	}
	n.write(t, "mesh.yaml", mesh("REGISTRY_ONLY"))
	eventually(t, 5*time.Second, "REGISTRY_ONLY is in force", func() bool { return !open() })
	if a := n.curl(t, n.in, "https://"+world.API); a.status != 200 {
		t.Errorf("a name that a rule has, under REGISTRY_ONLY: %+v", a)
	}
}
