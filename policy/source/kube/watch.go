// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
)

// How long egressd waits before it asks again what the API server did not answer:
// twice as long each time, and up to as much again by chance, so that the nodes of a
// cluster do not come all at once.
const (
	retryFirst = 200 * time.Millisecond
	retryMost  = 15 * time.Second
	// retryReset is how long a watch must have gone well for the next failure to be
	// the first.
	retryReset = 2 * time.Minute
	// watchTimeout is how long a watch lasts at least; it ends by chance until twice as
	// long, and goes on where it was. One that hangs is noticed by its connection.
	watchTimeout = 30 * time.Minute
)

func backoff() *wait.Backoff {
	return &wait.Backoff{Duration: retryFirst, Cap: retryMost, Steps: 64, Factor: 2, Jitter: 1}
}

func isNotFound(err error) bool { return apierrors.IsNotFound(err) }

// endingClock is the time of a reflector, which waits for nothing any more when its
// context has ended.
type endingClock struct {
	clock.RealClock
	ctx context.Context
}

// After fires after d, or when the context ends.
func (c endingClock) After(d time.Duration) <-chan time.Time {
	out := make(chan time.Time, 1)
	go func() {
		sleep(c.ctx, d)
		out <- time.Now()
	}()
	return out
}

// watch keeps the table as the API server has it, until ctx ends.
func (t *table) watch(ctx context.Context, from *cache.ListWatch) {
	t.source.reflect(ctx, from, t, t.failed)
}

// reflect keeps a store as the API server has it, until ctx ends. note is told how
// each request ended. Lists are streamed by watches. Where a watch fails the reflector
// would ask for a list in the old way, which costs the API server the most at the time
// when it can afford it the least, as when it starts again: that is only asked for where
// it does not know how to stream one.
func (s *Informer) reflect(ctx context.Context, from *cache.ListWatch, to cache.ReflectorStore, note func(error)) {
	told := func(err error) {
		if ctx.Err() == nil {
			note(err)
		}
	}
	var refused error // why the newest watch did not stream a list; nil: it does not know how to
	store := &readStore{ReflectorStore: to}
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o meta.ListOptions) (runtime.Object, error) {
			if refused != nil {
				return nil, refused
			}
			var list runtime.Object
			done, err := s.turns.ask(ctx, failures(told), func(ctx context.Context) (err error) {
				list, err = from.ListWithContext(ctx, o)
				return err
			})
			if err != nil {
				return nil, err
			}
			done()
			return list, nil
		},
		WatchFuncWithContext: func(ctx context.Context, o meta.ListOptions) (w watch.Interface, err error) {
			old := false
			done, err := s.turns.ask(ctx, func(err error) {
				if old = refusesList(o, err); !old {
					told(err)
				}
			}, func(ctx context.Context) (err error) {
				w, err = from.WatchWithContext(ctx, o)
				return err
			})
			if o.SendInitialEvents == nil {
				if err != nil {
					return nil, err
				}
				done()
				return w, nil
			}
			refused = cmp.Or(err, errBroken)
			if old {
				refused = nil
			}
			if err != nil {
				return nil, err
			}
			store.done = done
			return readOnce{w, done}, nil
		},
	}
	silent := klog.New(nil) // what there is to say note is told
	r := cache.NewReflectorWithOptions(lw, nil, store, cache.ReflectorOptions{
		Logger: &silent, Name: "egressd", Backoff: backoff(), Clock: endingClock{ctx: ctx}, MinWatchTimeout: watchTimeout,
	})
	r.MaxInternalErrorRetryDuration = retryMost
	r.RunWithContext(klog.NewContext(ctx, silent))
}

// failures tells of requests that failed alone.
func failures(tell func(error)) func(error) {
	return func(err error) {
		if err != nil {
			tell(err)
		}
	}
}

// errBroken says that a list was begun and not ended.
var errBroken = errors.New("the API server ended a list before it was complete")

// refusesList says whether the API server does not know how to stream a list, which is
// asked for in the old way then.
func refusesList(o meta.ListOptions, err error) bool {
	return o.SendInitialEvents != nil && (apierrors.IsInvalid(err) || apierrors.IsBadRequest(err))
}

// definitions is the store of the CustomResourceDefinitions: which of the kinds that
// are read are defined.
type definitions struct {
	ctx    context.Context
	source *Informer
}

// followDefinitions watches the kinds that the API server has, as they come and go.
func (s *Informer) followDefinitions(ctx context.Context) {
	s.reflect(ctx, s.clients.definitions(), definitions{ctx, s}, s.definitions.failed)
}

func nameOf(v any) string {
	if d, ok := v.(cache.DeletedFinalStateUnknown); ok {
		v = d.Obj
	}
	o, ok := v.(meta.ObjectMetaAccessor)
	if !ok {
		return ""
	}
	return o.GetObjectMeta().GetName()
}

// Transformer keeps the names alone.
func (d definitions) Transformer() cache.TransformFunc {
	return func(v any) (any, error) { return &object{ObjectMeta: meta.ObjectMeta{Name: nameOf(v)}}, nil }
}

// Add is for the reflector, and so are the next four.
func (d definitions) Add(v any) error {
	d.source.define(d.ctx, nameOf(v), true)
	return nil
}

// Update has nothing to do: a kind looks itself for the version that is served.
func (d definitions) Update(v any) error { return d.Add(v) }

// Delete is for a kind that is no more.
func (d definitions) Delete(v any) error {
	d.source.define(d.ctx, nameOf(v), false)
	return nil
}

// Replace is given all definitions that there are.
func (d definitions) Replace(list []any, _ string) error {
	there := map[string]bool{}
	for _, v := range list {
		there[nameOf(v)] = true
	}
	for _, t := range d.source.tables { // which stay the same
		if k := t.kind; k.defined() {
			d.source.define(d.ctx, k.definition(), there[k.definition()])
		}
	}
	d.source.mu.Lock()
	defer d.source.mu.Unlock()
	d.source.definitions.synced = true
	d.source.check()
	return nil
}

// Resync has nothing to do.
func (d definitions) Resync() error { return nil }

// define begins to watch a kind that is there now, and ends that of one that is not.
func (s *Informer) define(ctx context.Context, definition string, there bool) {
	s.mu.Lock()
	t := s.byDefinition(definition)
	if t == nil || t.present == there {
		s.mu.Unlock()
		return
	}
	t.present = there
	if there {
		var of context.Context
		of, t.cancel = context.WithCancel(ctx)
		t.ended = make(chan struct{})
		s.running.Go(func() { defer close(t.ended); t.watchDefined(of) })
		s.mu.Unlock()
		s.o.Log.Info("the API server has a kind of policy objects", "kind", t.kind.name)
		return
	}
	t.cancel()
	ended := t.ended
	s.mu.Unlock()
	<-ended // nothing is put into the table any more
	s.mu.Lock()
	defer s.mu.Unlock()
	t.empty()
	t.err = ""
	delete(s.failing, t.kind.name)
	s.check()
	s.o.Log.Warn("the API server has a kind of policy objects no more; what its objects said counts no more", "kind", t.kind.name)
}

func (s *Informer) byDefinition(name string) *table {
	for _, t := range s.tables {
		if t.kind.defined() && t.kind.definition() == name {
			return t
		}
	}
	return nil
}

var errNotServed = errors.New("defined, and not served in a version that is read")

// watchDefined watches a kind that is defined, in the best version that is served,
// until ctx ends.
func (t *table) watchDefined(ctx context.Context) {
	_ = backoff().DelayWithReset(clock.RealClock{}, retryReset).Until(ctx, true, true, func(ctx context.Context) (bool, error) {
		for _, v := range t.kind.versions {
			t.watchVersion(ctx, v)
			if ctx.Err() != nil {
				return false, nil
			}
		}
		t.failed(fmt.Errorf("%s is %w (%v)", t.kind.definition(), errNotServed, t.kind.versions))
		return false, nil
	})
}

// watchVersion watches a kind in a version, until ctx ends or the API server says that it
// does not serve that.
func (t *table) watchVersion(ctx context.Context, version string) {
	resource := t.kind.version(version)
	t.source.mu.Lock()
	t.apiVersion = resource.GroupVersion().String()
	t.source.mu.Unlock()
	of, cancel := context.WithCancel(ctx)
	defer cancel()
	t.source.reflect(of, t.source.clients.defined(resource), t, func(err error) {
		if isNotFound(err) {
			cancel()
			return
		}
		t.failed(err)
	})
}
