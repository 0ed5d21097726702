// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"fmt"
	goruntime "runtime"
	"sync"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/egressd/egressd/internal/kubetest"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio"
	"github.com/egressd/egressd/policy/load"
)

func entryObject(ns string, i int, host string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
		"metadata": map[string]any{"name": fmt.Sprintf("e%05d", i), "namespace": ns, "creationTimestamp": "2026-01-01T00:00:00Z"},
		"spec": map[string]any{
			"hosts": []any{host}, "resolution": "DNS",
			"ports": []any{map[string]any{"number": int64(443), "name": "tls", "protocol": "TLS"}},
		},
	}}
}

// received is an object as it comes from the API server.
func received(t testing.TB, u *unstructured.Unstructured) runtime.Object {
	t.Helper()
	text, err := u.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	o, _, err := newCustomCodec().Decode(text, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// daemon compiles what an Informer has, as the daemon does.
type daemon struct {
	reader   *istio.Reader
	refusals load.Refusals
	was      *policy.Snapshot
}

func newDaemon() *daemon {
	return &daemon{reader: istio.NewReader(istio.Options{}), was: new(policy.Snapshot)}
}

func (d *daemon) load(files []istio.File) error {
	l, err := d.refusals.Load(nil, files, true, func(files []istio.File) (load.Result, error) {
		config, findings := d.reader.Load(files)
		l := load.Result{Findings: findings}
		err := l.Compile(config, d.was)
		return l, err
	})
	if err == nil {
		d.was = l.Snapshot
	}
	return err
}

const benchEntries, benchPods = 10_000, 500

// BenchmarkChange is one change among 10,000 ServiceEntries, with 500 pods, from the
// event to the snapshot: of a ServiceEntry, and of a pod.
func BenchmarkChange(b *testing.B) {
	s, err := New(Options{Config: &rest.Config{Host: "https://127.0.0.1:1"}, Node: "node1"})
	if err != nil {
		b.Fatal(err)
	}
	entries, pods, namespaces := s.tables["ServiceEntry"], s.tables[podKind], s.tables[namespaceKind]
	var all []any
	for i := range benchEntries {
		all = append(all, received(b, entryObject("n", i, fmt.Sprintf("h%d.example.com", i))))
	}
	pod := func(i, version int) *core.Pod {
		p := &core.Pod{ObjectMeta: meta.ObjectMeta{Namespace: "n", Name: fmt.Sprintf("p%d", i), UID: types.UID(fmt.Sprintf("b0b0b0b0-0000-4000-8000-%012d", i))}}
		p.Labels = map[string]string{"app": "x", "version": fmt.Sprint(version)}
		p.Spec.ServiceAccountName, p.Status.QOSClass = "default", core.PodQOSBurstable
		return p
	}
	if err := entries.Replace(all, ""); err != nil {
		b.Fatal(err)
	}
	if err := namespaces.Add(&core.Namespace{ObjectMeta: meta.ObjectMeta{Name: "n"}}); err != nil {
		b.Fatal(err)
	}
	for i := range benchPods {
		if err := pods.Add(pod(i, 0)); err != nil {
			b.Fatal(err)
		}
	}
	d := newDaemon()
	start := time.Now()
	if err := d.load(s.Files()); err != nil {
		b.Fatal(err)
	}
	b.Logf("the first snapshot of %d files after %v", len(s.Files()), time.Since(start))
	run := func(name string, change func(i int) error) {
		b.Run(name, func(b *testing.B) {
			i := 0
			for b.Loop() {
				i++
				if err := change(i); err != nil {
					b.Fatal(err)
				}
				if err := d.load(s.Files()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	run("ServiceEntry", func(i int) error {
		return entries.Update(received(b, entryObject("n", i%benchEntries, fmt.Sprintf("h%d-%d.example.com", i%benchEntries, i))))
	})
	run("Pod", func(i int) error { return pods.Update(pod(i%benchPods, i)) })
}

// BenchmarkServer is the same with a real API server: from the request that changes a
// ServiceEntry to the snapshot that has it. It also says how long the first snapshot
// takes, and how much memory is in use then.
func BenchmarkServer(b *testing.B) {
	c := kubetest.Start(b, kubetest.Options{})
	c.InstallIstio(b)
	config := c.Config()
	config.ContentType = "application/json"
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		b.Fatal(err)
	}
	resource := client.Resource(kinds()[5].version("v1")).Namespace("default")
	var making sync.WaitGroup
	next := make(chan int)
	for range 16 {
		making.Go(func() {
			for i := range next {
				if _, err := resource.Create(b.Context(), entryObject("default", i, fmt.Sprintf("h%d.example.com", i)), meta.CreateOptions{}); err != nil {
					b.Error(err)
				}
			}
		})
	}
	for i := range benchEntries {
		next <- i
	}
	close(next)
	making.Wait()

	goruntime.GC()
	var before, after goruntime.MemStats
	goruntime.ReadMemStats(&before)
	start := time.Now()
	s, err := New(Options{Config: c.Config(), Node: "node1"})
	if err != nil {
		b.Fatal(err)
	}
	d, snapshots := newDaemon(), make(chan *policy.Snapshot, 1)
	ctx, cancel := context.WithCancel(b.Context())
	var running sync.WaitGroup
	defer func() { cancel(); running.Wait() }()
	running.Go(func() {
		_ = s.Run(ctx, func() {
			if err := d.load(s.Files()); err != nil {
				b.Error(err)
			}
			select {
			case <-snapshots:
			default:
			}
			snapshots <- d.was
		})
	})
	<-snapshots
	first := time.Since(start)
	goruntime.GC()
	goruntime.ReadMemStats(&after)
	b.Logf("the first snapshot after %v, with %d MiB of memory", first, (int64(after.HeapAlloc)-int64(before.HeapAlloc))>>20)
	i := 0
	for b.Loop() {
		i++
		host := fmt.Sprintf("new%d.example.com", i)
		patch := fmt.Sprintf(`{"spec":{"hosts":[%q]}}`, host)
		if _, err := resource.Patch(b.Context(), fmt.Sprintf("e%05d", i%benchEntries), "application/merge-patch+json", []byte(patch), meta.PatchOptions{}); err != nil {
			b.Fatal(err)
		}
		for now := range snapshots {
			if now.Policy(policy.DefaultPolicy).DecideQuery(host).Verdict != policy.Deny {
				break
			}
		}
	}
}
