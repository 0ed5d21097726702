// SPDX-License-Identifier: Apache-2.0

package kubestatus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	coordination "k8s.io/api/coordination/v1"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic/fake"
	fakes "k8s.io/client-go/kubernetes/fake"
	metadatafake "k8s.io/client-go/metadata/fake"
	clienttest "k8s.io/client-go/testing"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/policy/istio"
)

var entries = schema.GroupVersionResource{Group: "networking.istio.io", Version: "v1", Resource: "serviceentries"}

func entry(name string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
		"metadata": map[string]any{"namespace": "shop", "name": name, "uid": "uid-" + name, "generation": int64(1)},
	}}
}

// findings are what a policy's reader says, and how often it was asked.
type findings struct {
	mu    sync.Mutex
	list  []istio.Finding
	asked int
}

func (f *findings) get() []istio.Finding {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	return append([]istio.Finding(nil), f.list...)
}

func (f *findings) set(list ...istio.Finding) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = list
}

// rounds waits until somebody has asked n times more: what was asked for before
// has been done then.
func (f *findings) rounds(t *testing.T, n int) {
	t.Helper()
	f.mu.Lock()
	from := f.asked
	f.mu.Unlock()
	testenv.Until(t, "the API server has it", func() bool { f.mu.Lock(); defer f.mu.Unlock(); return f.asked >= from+n })
}

// fakeCluster has ServiceEntries, twice: as objects and as metadata, which the
// fakes of clients do not share.
type fakeCluster struct {
	findings
	objects *fake.FakeDynamicClient
	told    atomic.Int32
	*statuses
}

func newFakeCluster(t *testing.T, names ...string) *fakeCluster {
	t.Helper()
	c := &fakeCluster{}
	var objects, metas []runtime.Object
	for _, n := range names {
		objects = append(objects, entry(n))
		metas = append(metas, &meta.PartialObjectMetadata{
			TypeMeta:   meta.TypeMeta{APIVersion: "networking.istio.io/v1", Kind: "ServiceEntry"},
			ObjectMeta: meta.ObjectMeta{Namespace: "shop", Name: n, UID: "uid", Generation: 1},
		})
	}
	c.objects = fake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{entries: "ServiceEntryList"}, objects...)
	scheme := metadatafake.NewTestScheme()
	if err := meta.AddMetaToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	known := metadatafake.NewSimpleMetadataClient(scheme, metas...)
	known.PrependReactor("list", "*", func(a clienttest.Action) (bool, runtime.Object, error) {
		if a.GetResource() != entries {
			return true, nil, apierrors.NewNotFound(a.GetResource().GroupResource(), "")
		}
		return false, nil, nil
	})
	c.statuses = newStatuses(statusOptions{
		objects: c.objects, names: known, findings: c.get, every: time.Millisecond,
		refused: func(core.ObjectReference, string) { c.told.Add(1) }, log: slog.New(slog.DiscardHandler),
	})
	return c
}

// start runs the writer until the test ends.
func (c *fakeCluster) start(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan bool)
	go func() { defer close(ended); c.run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
}

// accepted is the status of our condition of an entry; "": there is none.
func (c *fakeCluster) accepted(t *testing.T, name string) string {
	t.Helper()
	o, err := c.objects.Resource(entries).Namespace("shop").Get(t.Context(), name, meta.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return acceptedOf(o)
}

func acceptedOf(o *unstructured.Unstructured) string {
	list, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
	for _, c := range list {
		if m, _ := c.(map[string]any); m["type"] == ConditionAccepted {
			return m["status"].(string)
		}
	}
	return ""
}

// TestStatuses: objects with findings have a condition, others have none, nothing
// is written twice, and an object that is refused is told of once.
func TestStatuses(t *testing.T) {
	c := newFakeCluster(t, "bad", "odd", "good")
	c.set(finding(istio.Error, "ServiceEntry/shop/bad", "EGD0001", "e"), finding(istio.Warning, "ServiceEntry/shop/odd", "EGD0210", "w"),
		finding(istio.Error, "ServiceEntry/shop/gone", "EGD0001", "e"), finding(istio.Error, "Sidecar/shop/unknown", "EGD0001", "e"))
	c.start(t)
	testenv.Until(t, "the API server has it", func() bool { return c.accepted(t, "bad") == "False" && c.accepted(t, "odd") == "True" })
	c.rounds(t, 10)
	if s := c.stats(); s.Written != 2 || s.Failed != 0 || c.told.Load() != 1 || c.accepted(t, "good") != "" {
		t.Errorf("%+v, told %d, good is %q", s, c.told.Load(), c.accepted(t, "good"))
	}
	c.set(finding(istio.Warning, "ServiceEntry/shop/bad", "EGD0210", "w"), finding(istio.Warning, "ServiceEntry/shop/odd", "EGD0210", "w"))
	testenv.Until(t, "the API server has it", func() bool { return c.accepted(t, "bad") == "True" })
	c.set(finding(istio.Error, "ServiceEntry/shop/bad", "EGD0001", "e"))
	testenv.Until(t, "the API server has it", func() bool { return c.accepted(t, "bad") == "False" && c.told.Load() == 2 })
}

// TestStatusConflict: who was slower reads again, and keeps what the other one
// wrote; who is refused does not try again and again.
func TestStatusConflict(t *testing.T) {
	c := newFakeCluster(t, "bad", "forbidden")
	var conflicts, forbidden atomic.Int32
	c.objects.PrependReactor("update", "serviceentries", func(a clienttest.Action) (bool, runtime.Object, error) {
		o := a.(clienttest.UpdateAction).GetObject().(*unstructured.Unstructured)
		switch {
		case a.GetSubresource() != "status":
			return true, nil, errors.New("more than the status is written")
		case o.GetName() == "forbidden":
			forbidden.Add(1)
			return true, nil, apierrors.NewForbidden(entries.GroupResource(), o.GetName(), nil)
		case conflicts.Add(1) <= 2:
			return true, nil, apierrors.NewConflict(entries.GroupResource(), o.GetName(), nil)
		}
		return false, nil, nil
	})
	c.set(finding(istio.Error, "ServiceEntry/shop/bad", "EGD0001", "e"), finding(istio.Error, "ServiceEntry/shop/forbidden", "EGD0001", "e"))
	c.start(t)
	testenv.Until(t, "the API server has it", func() bool { return c.accepted(t, "bad") == "False" })
	c.rounds(t, 10)
	if s := c.stats(); conflicts.Load() != 3 || forbidden.Load() != 1 || s.Written != 1 || s.Failed != 3 {
		t.Errorf("%d tries, %d that are forbidden, %+v", conflicts.Load(), forbidden.Load(), s)
	}
}

// TestElection: one of several works; when it ends, another one does, at once, for
// the Lease is released; never do two.
func TestElection(t *testing.T) {
	api := fakes.NewClientset()
	times := Election{Duration: 2 * time.Second, Renew: time.Second, Retry: 100 * time.Millisecond, Check: 50 * time.Millisecond}
	var working, worked atomic.Int32
	ends := make(chan context.CancelFunc, 3)
	var parts sync.WaitGroup
	for i := range 3 {
		e := newElection(api.CoordinationV1(), "egressd-system", fmt.Sprint("node", i), times, slog.New(slog.DiscardHandler))
		parts.Go(func() {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			e.run(ctx, func(lead context.Context) {
				if working.Add(1) != 1 {
					t.Error("two work")
				}
				worked.Add(1)
				ends <- cancel
				<-lead.Done()
				working.Add(-1)
			})
		})
	}
	began := time.Now()
	for i := range 3 {
		(<-ends)()
		if i > 0 && time.Since(began) > time.Duration(i)*times.Duration {
			t.Errorf("number %d had to wait for the Lease of one that had ended", i+1)
		}
	}
	parts.Wait()
	if worked.Load() != 3 {
		t.Errorf("%d worked", worked.Load())
	}
}

// TestHeirOfTheWriter: a daemon that takes the writer's place in an upgrade goes on
// writing soon, though those that only look for one that is gone look once a minute.
func TestHeirOfTheWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := fakes.NewClientset()
		end, works, ended := stands(t, api, "node1", false)
		<-works
		endHeir, heirWorks, heirEnded := stands(t, api, "node1", false)
		time.Sleep(3 * time.Second)
		end()
		<-ended
		left := time.Now()
		<-heirWorks
		if took := time.Since(left); took > 10*time.Second {
			t.Errorf("nobody wrote for %v", took)
		}
		endHeir()
		<-heirEnded
	})
}

// TestKilledWriter: the daemon after one that was killed writes at once, for it knows
// that nobody else of its node lives; of other nodes nobody knows that.
func TestKilledWriter(t *testing.T) {
	for name, c := range map[string]struct {
		killed      string // the writer's node
		alone, soon bool
	}{
		"alone":      {"node1", true, true},
		"not alone":  {"node1", false, false},
		"other node": {"node11", true, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				holder, seconds := c.killed+"_00000000", int32(60)
				now := meta.NewMicroTime(time.Now())
				api := fakes.NewClientset(&coordination.Lease{
					ObjectMeta: meta.ObjectMeta{Namespace: "egressd-system", Name: LeaseName},
					Spec:       coordination.LeaseSpec{HolderIdentity: &holder, LeaseDurationSeconds: &seconds, AcquireTime: &now, RenewTime: &now},
				})
				began := time.Now()
				end, works, ended := stands(t, api, "node1", c.alone)
				<-works
				if took := time.Since(began); (took < time.Second) != c.soon {
					t.Errorf("nobody wrote for %v", took)
				}
				end()
				<-ended
			})
		})
	}
}

// stands has a daemon of a node stand for election.
func stands(t *testing.T, api *fakes.Clientset, node string, alone bool) (end context.CancelFunc, works, ended chan bool) {
	ctx, end := context.WithCancel(t.Context())
	works, ended = make(chan bool), make(chan bool)
	e := newElection(api.CoordinationV1(), "egressd-system", node, Election{}, slog.New(slog.DiscardHandler))
	e.alone = alone
	go func() {
		defer close(ended)
		e.run(ctx, func(lead context.Context) { close(works); <-lead.Done() })
	}()
	return end, works, ended
}

// TestNoLease: where the Lease cannot be had that is said, once, and nobody works.
func TestNoLease(t *testing.T) {
	for name, verb := range map[string]string{"no namespace": "create", "no role": "*"} {
		t.Run(name, func(t *testing.T) {
			api := fakes.NewClientset()
			var tries atomic.Int32
			api.PrependReactor(verb, "leases", func(a clienttest.Action) (bool, runtime.Object, error) {
				tries.Add(1)
				if verb == "create" {
					return true, nil, apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, "egressd")
				}
				return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: "leases"}, LeaseName, nil)
			})
			log := &testenv.Buffer{}
			times := Election{Duration: 20 * time.Millisecond, Renew: 15 * time.Millisecond, Retry: 5 * time.Millisecond, Check: 5 * time.Millisecond}
			e := newElection(api.CoordinationV1(), "egressd", "node1", times, slog.New(slog.NewTextHandler(log, nil)))
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan bool)
			go func() { defer close(ended); e.run(ctx, func(context.Context) { t.Error("it works") }) }()
			testenv.Until(t, "the API server has it", func() bool { return tries.Load() > 20 && strings.Contains(log.String(), "egressd's Role") })
			cancel()
			<-ended
			if n := strings.Count(log.String(), "egressd's Role"); n != 1 {
				t.Errorf("said %d times: %s", n, log)
			}
		})
	}
}
