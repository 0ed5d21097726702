// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/podcgroup"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/policy"
)

// newPodRig is a rig whose tree is a node's, of which the pods are captured.
func newPodRig(t *testing.T, o Options) *rig {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: only root's cgroups are a kubelet's")
	}
	r := newRig(t, o, "")
	if err := os.Chmod(r.root, 0o755); err != nil {
		t.Fatal(err)
	}
	r.capture = &Capture{log: r.log, lost: errNotYet, pods: &podFinder{tree: r.root}}
	return r
}

const (
	uidA = "0f1b5a3e-1c2d-4e5f-8a9b-0123456789ab"
	uidB = "1f1b5a3e-1c2d-4e5f-8a9b-0123456789ab"
	uidC = "2f1b5a3e-1c2d-4e5f-8a9b-0123456789ab"
)

// is fails the test unless the kernel was told that a cgroup is a workload.
func (r *rig) is(what string, id uint64, name string, p policy.PolicyID, m policy.Mode) {
	r.t.Helper()
	got, ok := r.d.table[id]
	if !ok || r.NameOf(got.ID) != name || got.Policy != p || got.Mode != m || got.AllowAny {
		r.t.Errorf("%s: %+v (%s), %t; want %s with policy %d in mode %s", what, got, r.NameOf(got.ID), ok, name, p, m)
	}
}

// TestBindPods: pods are captured when the kubelet makes their cgroup; one that no Workload
// describes may reach nothing, those that the kubelet says are of system namespaces are
// free; when a Workload comes it has its way.
func TestBindPods(t *testing.T) {
	for _, root := range podcgroup.Usual {
		t.Run(strings.ReplaceAll(string(root), "/", "_"), func(t *testing.T) {
			r := newPodRig(t, Options{Mode: policy.Enforce, Pods: PodOptions{SystemNamespaces: []string{"kube-system"}, Logs: t.TempDir()}})
			logs := r.opts.Pods.Logs
			if err := os.Chmod(logs, 0o755); err != nil {
				t.Fatal(err)
			}
			web := "shop/web=" + podcgroup.Path(uidA, podcgroup.Burstable)
			s := described(t, web, "shop/free="+root.Path(uidB, podcgroup.BestEffort)+"=off", "out/side=system.slice/x")
			r.mkdir("system.slice/x")
			r.bind(s)
			if len(r.d.table) != 0 || r.capture.At() != "" {
				t.Fatalf("before the kubelet: %v at %q", r.d.table, r.capture.At())
			}
			if _, err := r.capture.Hold(func(string) error { t.Error("attached"); return nil }); !errors.Is(err, ErrNotThere) || !strings.Contains(err.Error(), r.root) {
				t.Errorf("before the kubelet: %v", err)
			}
			all := r.mkdir(string(root))
			r.bind(nil)
			r.is("the cgroup of all pods", all, "node", policy.UnknownWorkload, policy.Enforce)
			if dir := filepath.Join(r.root, string(root)); r.capture.At() != dir {
				t.Errorf("attached at %s", r.capture.At())
			}
			a, b := r.mkdir(root.Path(uidA, podcgroup.Burstable)), r.mkdir(root.Path(uidB, podcgroup.BestEffort))
			system, other := r.mkdir(root.Path(uidC, podcgroup.Guaranteed)), r.mkdir(root.Path("static", podcgroup.Guaranteed))
			r.bind(nil)
			web1 := r.snapshot.Workloads()[1].Policy
			r.is("a described pod", a, "shop/web", web1, policy.Enforce)
			r.is("one in mode off", b, "shop/free", r.snapshot.Workloads()[0].Policy, policy.Off)
			unknown := func(want ...string) {
				t.Helper()
				if got := r.capture.Status().UnknownPods; !slices.Equal(got, want) {
					t.Errorf("unknown pods: %v, want %v", got, want)
				}
				for id, uid := range map[uint64]string{system: uidC, other: "static"} {
					if _, ok := r.d.table[id]; ok == slices.Contains(want, uid) {
						t.Errorf("pod %s is in the table: %t", uid, ok)
					}
				}
			}
			unknown(uidC, "static")
			for _, dir := range []string{"kube-system_dns_" + uidC, "shop_kube-system_static"} {
				if err := os.Mkdir(filepath.Join(logs, dir), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			r.bind(nil)
			unknown("static")
			r.is("a pod of a system namespace", system, "kube-system/dns", policy.UnknownWorkload, policy.Off)
			// The API tells of it.
			r.bind(described(t, web, "kube-system/dns="+root.Path(uidC, podcgroup.Guaranteed)+"=enforce"))
			if got := r.d.table[system]; got.Mode != policy.Enforce || got.Policy == policy.UnknownWorkload {
				t.Errorf("a pod of a system namespace that is described: %+v", got)
			}
			if _, ok := r.d.table[b]; ok {
				t.Error("a pod whose Workload is gone is still known")
			}
			// Made anew: another UID, another pod.
			if err := os.Remove(filepath.Join(r.root, root.Path(uidA, podcgroup.Burstable))); err != nil {
				t.Fatal(err)
			}
			r.mkdir(root.Path(uidA+"0", podcgroup.Burstable))
			r.bind(nil)
			if _, ok := r.d.table[a]; ok {
				t.Error("a pod that is gone is still known")
			}
			if got := r.capture.Status().UnknownPods; !slices.Equal(got, []string{uidA + "0", uidB, "static"}) {
				t.Errorf("unknown: %v", got)
			}
		})
	}
}

// TestPodsElsewhere: which cgroup is the node's pods' is said anew when the kubelet gets another
// driver, and pods in two places are an error.
func TestPodsElsewhere(t *testing.T) {
	r := newPodRig(t, Options{})
	attached := ""
	look := func() error {
		t.Helper()
		r.capture.pods.sought = r.capture.pods.sought.Add(-seekInterval)
		r.bind(described(t))
		_, err := r.capture.look(r.log, func() error { attached = r.capture.where.at; return nil }, func(string) error { return nil })
		return err
	}
	at := func(want string) {
		t.Helper()
		if want = filepath.Join(r.root, want); attached != want || r.capture.At() != want {
			t.Errorf("attached to %s, want %s", attached, want)
		}
	}
	r.mkdir("a/kubepods/podinner") // of a node that runs in a container
	r.mkdir("kubepods/burstable")
	r.mkdir("kubepods.slice")
	if err := look(); err != nil {
		t.Error(err)
	}
	at("kubepods")
	r.mkdir(podcgroup.Root("kubepods.slice").Path(uidA, podcgroup.Burstable))
	if err := look(); err != nil {
		t.Error(err)
	}
	at("kubepods.slice")
	r.mkdir(podcgroup.Root("kubepods").Path(uidB, podcgroup.Burstable))
	if err := look(); err == nil || !strings.Contains(err.Error(), "those in "+filepath.Join(r.root, "kubepods")+" are not captured") {
		t.Errorf("pods in two places: %v", err)
	}
	at("kubepods.slice")
	if err := os.RemoveAll(filepath.Join(r.root, "kubepods.slice")); err != nil {
		t.Fatal(err)
	}
	if err := look(); err != nil {
		t.Error(err)
	}
	at("kubepods")
	if err := os.RemoveAll(filepath.Join(r.root, "kubepods")); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(r.root, "a")); err != nil {
		t.Fatal(err)
	}
	if err := look(); !errors.Is(err, ErrNotThere) {
		t.Errorf("no pods: %v", err)
	}
	r.mkdir("kubepods")
	if err := look(); err != nil {
		t.Error(err)
	}
	at("kubepods")
}

// TestNumbers: a number is given again only when all are given, and then the one whose workload is
// gone the longest.
func TestNumbers(t *testing.T) {
	n := newNumbers()
	all := int(loader.MaxWorkloads - Probe - 1)
	for i := range all {
		n.round++
		if got := n.of(fmt.Sprint(i)); got != Probe+1+uint32(i) {
			t.Fatalf("number %d of workload %d", got, i)
		}
	}
	n.round++
	kept := n.of("0")
	if got := n.of("new"); got != kept+1 || n.nameOf(got) != "new" {
		t.Errorf("the next one: %d (%s), want that of the one that is gone the longest, %d", got, n.nameOf(got), kept+1)
	}
	if again := n.of("0"); again != kept {
		t.Errorf("a workload that goes on has another number: %d, %d", kept, again)
	}
	n = newNumbers()
	for i := range all {
		n.of(fmt.Sprint(i)) // all at a time
	}
	if got := n.of("too many"); got != 0 {
		t.Errorf("one more than there are numbers: %d", got)
	}
}

// BenchmarkBindPods: what one pod that comes or goes costs on a node with 500 of them.
func BenchmarkBindPods(b *testing.B) {
	for _, count := range []int{50, 500, 2000} {
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			benchBind(b, count)
		})
	}
}

func benchBind(b *testing.B, count int) {
	root := podcgroup.Root("kubepods.slice")
	dir := b.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		b.Fatal(err)
	}
	c := &policy.Config{}
	for i := range count {
		class := []string{podcgroup.Burstable, podcgroup.BestEffort, podcgroup.Guaranteed}[i%3]
		uid := fmt.Sprintf("%08x-1c2d-4e5f-8a9b-0123456789ab", i)
		w := &policy.Workload{Identity: policy.Identity{Name: fmt.Sprintf("web-%d", i), Namespace: fmt.Sprintf("ns%d", i%20)}, Cgroups: []string{root.Path(uid, class)}}
		if i%10 == 0 {
			off := policy.Off
			w.Mode = &off
		}
		c.Workloads = append(c.Workloads, w)
		if err := os.MkdirAll(filepath.Join(dir, w.Cgroups[0]), 0o755); err != nil {
			b.Fatal(err)
		}
	}
	s, err := new(policy.Snapshot).Update(c)
	if err != nil {
		b.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	w, err := NewBinding(&Capture{log: log, lost: errNotYet, pods: &podFinder{tree: dir}}, &tables{}, Options{Name: "node", Described: true, Log: log})
	if err != nil {
		b.Fatal(err)
	}
	w.root = dir
	stopped, stop := context.WithCancel(b.Context())
	defer w.Watch(stopped, func() {})
	defer stop()
	w.held = func(string) error { return nil }
	come := filepath.Join(dir, root.Path("come", podcgroup.Burstable))
	for b.Loop() {
		if err := os.Mkdir(come, 0o755); err != nil {
			b.Fatal(err)
		}
		if err := w.Bind(s); err != nil {
			b.Fatal(err)
		}
		if err := os.Remove(come); err != nil {
			b.Fatal(err)
		}
	}
}
