// SPDX-License-Identifier: Apache-2.0

package kubestatus

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/util/workqueue"
)

// Bounds of writing statuses: how many objects a second, and how long until one
// that failed is tried again.
const (
	writeRate, writeBurst = 10, 50
	firstRetry, lastRetry = 200 * time.Millisecond, time.Minute
	// insistEvery is how often the same is written to an object that somebody, or
	// the API server, keeps otherwise.
	insistEvery = time.Minute
)

// target is an object in whose status there is something to write.
type target struct {
	at              schema.GroupVersionResource
	namespace, name string
}

// edit brings the status of an object up to date, and says whether that changed it.
type edit func(o *unstructured.Unstructured, now meta.Time) bool

// wish is what is to be in the status of an object.
type wish struct {
	digest string
	edit   edit
	// done says that it was written, at.
	done bool
	at   time.Time
}

// statusCounts count what was done.
type statusCounts struct{ written, same, failed atomic.Uint64 }

// StatusStats count what became of statuses.
type StatusStats struct {
	Written uint64 `json:"written"`
	Same    uint64 `json:"same"`   // the status said so already
	Failed  uint64 `json:"failed"` // tried again, unless the API server says that it is no use
}

func (s *statuses) stats() StatusStats {
	return StatusStats{s.count.written.Load(), s.count.same.Load(), s.count.failed.Load()}
}

// writer writes statuses: it reads an object, changes what egressd says in it and
// writes it, provided that nobody else has written meanwhile.
type writer struct {
	objects dynamic.Interface
	count   *statusCounts
	log     *slog.Logger
	limit   *rate.Limiter
	queue   workqueue.TypedRateLimitingInterface[target]

	mu     sync.Mutex
	wishes map[target]*wish
}

func newWriter(objects dynamic.Interface, count *statusCounts, log *slog.Logger) *writer {
	return &writer{
		objects: objects, count: count, log: log, limit: rate.NewLimiter(writeRate, writeBurst), wishes: map[target]*wish{},
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[target](firstRetry, lastRetry)),
	}
}

// want has a status written, unless that was done. The same digest is the same
// status.
func (w *writer) want(t target, digest string, e edit) {
	if w.wanted(t, digest) {
		return
	}
	w.mu.Lock()
	w.wishes[t] = &wish{digest: digest, edit: e}
	w.mu.Unlock()
	w.queue.Add(t)
}

// wanted says whether a status was written, or will be.
func (w *writer) wanted(t target, digest string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	was := w.wishes[t]
	return was != nil && was.digest == digest
}

// insist is want for a status that is known to be another one, however that came.
func (w *writer) insist(t target, digest string, e edit) {
	w.mu.Lock()
	if was := w.wishes[t]; was != nil && was.digest == digest && was.done && time.Since(was.at) >= insistEvery {
		delete(w.wishes, t)
	}
	w.mu.Unlock()
	w.want(t, digest, e)
}

// run writes until the queue is shut down.
func (w *writer) run(ctx context.Context) {
	for {
		t, ended := w.queue.Get()
		if ended {
			return
		}
		if ctx.Err() == nil {
			w.next(ctx, t)
		}
		w.queue.Done(t)
	}
}

// next writes the status of one object.
func (w *writer) next(ctx context.Context, t target) {
	w.mu.Lock()
	wish := w.wishes[t]
	w.mu.Unlock()
	if wish == nil || w.limit.Wait(ctx) != nil {
		return
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	switch err := w.write(call, t, wish.edit); {
	case err == nil:
		w.queue.Forget(t)
		w.mu.Lock()
		wish.done, wish.at = true, time.Now()
		w.mu.Unlock()
	case errors.IsNotFound(err):
		w.forget(t)
	case errors.IsForbidden(err) || errors.IsInvalid(err) || errors.IsMethodNotSupported(err):
		// It would be refused again: until there is something else to say.
		w.queue.Forget(t)
		w.count.failed.Add(1)
		w.log.Warn("the API server refuses a status, so people do not see there what egressd says of the object; traffic is not concerned. Is egressd's ClusterRole up to date?",
			"resource", t.at.Resource, "object", t.namespace+"/"+t.name, "error", err)
	default:
		w.count.failed.Add(1)
		w.queue.AddRateLimited(t)
		w.log.Debug("a status could not be written, and is tried again; traffic is not concerned", "resource", t.at.Resource, "object", t.namespace+"/"+t.name, "error", err)
	}
}

// forget forgets an object that is not there any more.
func (w *writer) forget(t target) {
	w.queue.Forget(t)
	w.mu.Lock()
	delete(w.wishes, t)
	w.mu.Unlock()
}

// keep forgets the objects of a kind that are not there any more.
func (w *writer) keep(at schema.GroupVersionResource, there func(namespace, name string) bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for t := range w.wishes {
		if t.at == at && !there(t.namespace, t.name) {
			delete(w.wishes, t)
		}
	}
}

// write changes the status of an object as it is now.
func (w *writer) write(ctx context.Context, t target, e edit) error {
	client := dynamic.ResourceInterface(w.objects.Resource(t.at))
	if t.namespace != "" {
		client = w.objects.Resource(t.at).Namespace(t.namespace)
	}
	o, err := client.Get(ctx, t.name, meta.GetOptions{})
	if err != nil {
		return err
	}
	if !e(o, meta.Now()) {
		w.count.same.Add(1)
		return nil
	}
	// The resourceVersion makes it fail when somebody was faster.
	if _, err := client.UpdateStatus(ctx, o, meta.UpdateOptions{FieldManager: Manager}); err != nil {
		return err
	}
	w.count.written.Add(1)
	return nil
}
