// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"bytes"
	"errors"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/egressd/egressd/policy/source"
)

// object is what is kept of an object.
type object struct {
	// ObjectMeta has the name and the namespace, which is what the reflector needs.
	meta.ObjectMeta
	// data is the object's file; nil: it has none.
	data []byte
	// pod is what a Pod's file is made of, and labels are a Namespace's.
	pod    *pod
	labels map[string]string
	// secrets are the Secrets that it names, as NAMESPACE/NAME.
	secrets []string
	// problem is what is wrong with it beside what the policy's reader finds.
	problem string
}

func (o *object) key() string { return o.Namespace + "/" + o.Name }

// table has the objects of a kind: the store of a reflector. Its fields are under the
// Informer's lock.
type table struct {
	source  *Informer
	kind    kind
	objects map[string]*object
	// synced says that objects are what the API server has, or had when it was
	// asked the last time.
	synced bool
	// present says that a kind that is defined has a definition, cancel stops
	// watching it, and ended is closed when that has stopped.
	present bool
	cancel  func()
	ended   chan struct{}
	// err is why the newest request failed; "": it did not.
	err   string
	errAt time.Time
	// refused says that the newest request is one that is never answered otherwise, as
	// things are.
	refused bool
	errors  uint64
	// putOff counts requests that the API server had too much to do for; busy is since
	// when it has, zero: it has not.
	putOff  uint64
	busy    time.Time
	changed time.Time
	// apiVersion is that of the objects.
	apiVersion string
}

func newTable(s *Informer, k kind) *table {
	return &table{source: s, kind: k, objects: map[string]*object{}, apiVersion: k.apiVersion()}
}

// fileName is that of an object's file.
func (t *table) fileName(o *object) string {
	if o.Namespace == "" {
		return source.ObjectPrefix + t.kind.name + "/" + o.Name
	}
	return source.ObjectPrefix + t.kind.name + "/" + o.key()
}

// Transformer has the reflector keep nothing of objects but what counts.
func (t *table) Transformer() cache.TransformFunc {
	return func(v any) (any, error) {
		if o := t.read(v); o != nil {
			return o, nil
		}
		return v, nil
	}
}

// read makes an object of what the API server sent; nil: it is none.
func (t *table) read(v any) *object {
	switch v := v.(type) {
	case *object:
		return v
	case cache.DeletedFinalStateUnknown:
		return t.read(v.Obj)
	}
	return t.kind.render(t, v)
}

// Add is for the reflector, and so are the next four.
func (t *table) Add(v any) error {
	o := t.read(v)
	if o == nil {
		return nil
	}
	t.source.mu.Lock()
	defer t.source.mu.Unlock()
	t.event()
	t.put(o)
	return nil
}

// Update does what Add does.
func (t *table) Update(v any) error { return t.Add(v) }

// Delete takes an object out.
func (t *table) Delete(v any) error {
	o := t.read(v)
	if o == nil {
		return nil
	}
	t.source.mu.Lock()
	defer t.source.mu.Unlock()
	t.event()
	t.remove(o.key())
	return nil
}

// Replace makes all objects those of a list, which is complete.
func (t *table) Replace(list []any, _ string) error {
	now := make(map[string]*object, len(list))
	for _, v := range list {
		if o := t.read(v); o != nil {
			now[o.key()] = o
		}
	}
	t.source.mu.Lock()
	defer t.source.mu.Unlock()
	t.event()
	for key := range t.objects {
		if now[key] == nil {
			t.remove(key)
		}
	}
	for _, o := range now {
		t.put(o)
	}
	t.synced = true
	t.source.check()
	return nil
}

// Resync has nothing to do: what is in Files stays there.
func (t *table) Resync() error { return nil }

func (t *table) event() {
	t.changed = time.Now()
	t.source.lastEvent = t.changed
}

func (t *table) put(o *object) {
	key := o.key()
	old := t.objects[key]
	t.objects[key] = o
	t.source.refer(old, o)
	t.show(old, o)
	if t.kind.name == namespaceKind {
		t.source.renameModes(o.Name)
	}
}

// show brings the object's file up to date.
func (t *table) show(old, o *object) {
	if o.pod != nil {
		o.data, o.problem = t.source.workload(o)
	}
	switch {
	case old != nil && old != o && bytes.Equal(old.data, o.data):
		o.data = old.data
	case o.data != nil || old != nil && old.data != nil:
		t.source.set(t.fileName(o), o.data)
	}
}

func (t *table) remove(key string) {
	old := t.objects[key]
	if old == nil {
		return
	}
	delete(t.objects, key)
	t.source.refer(old, nil)
	if old.data != nil {
		t.source.set(t.fileName(old), nil)
	}
	if t.kind.name == namespaceKind {
		t.source.renameModes(old.Name)
	}
}

// empty removes all objects of a kind that is no more.
func (t *table) empty() {
	for key := range t.objects {
		t.remove(key)
	}
	t.synced = false
}

// busyLasts is how long the API server may have too much to do for a kind before that
// counts as a failure.
const busyLasts = 30 * time.Second

// putsOff notes that the API server has too much to do for the kind, and says whether
// that is all there is to say.
func (t *table) putsOff(err error) bool {
	if !apierrors.IsTooManyRequests(err) {
		t.busy = time.Time{}
		return false
	}
	if t.putOff++; t.busy.IsZero() {
		t.busy = time.Now()
	}
	return time.Since(t.busy) < busyLasts
}

// failed notes the outcome of a request.
func (t *table) failed(err error) {
	s := t.source
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.putsOff(err) {
		return
	}
	name := t.fullName()
	was := len(s.failing)
	t.refused = apierrors.IsForbidden(err) || isNotFound(err) || errors.Is(err, errNotServed)
	if err == nil {
		t.err = ""
		if delete(s.failing, name); was > 0 && len(s.failing) == 0 {
			s.o.Log.Info("the API server answers again", "server", s.clients.server)
		}
		return
	}
	if errors.Is(err, errNotServed) { // it will be, mostly in a second
		t.err, t.errAt = err.Error(), time.Now()
		s.check()
		return
	}
	t.errors++
	first := t.err == ""
	t.err, t.errAt = err.Error(), time.Now()
	if t.kind.optional && t.refused {
		if first {
			s.o.Log.Warn("the API server does not let egressd read a kind of objects; what they say is not in force, and all else is",
				"server", s.clients.server, "kind", name, "error", err)
		}
		s.check()
		return
	}
	s.failing[name] = true
	switch {
	case !first:
	case was == 0:
		s.o.Log.Warn("a request to the API server failed; what it said before stays in force, and it is asked again",
			"server", s.clients.server, "kind", name, "error", err)
	default: // one for all kinds is enough to know
		s.o.Log.Debug("a request to the API server failed", "kind", name, "error", err)
	}
}

// fullName is the kind's, and the object's where it is one that is watched.
func (t *table) fullName() string {
	if t.kind.object == "" {
		return t.kind.name
	}
	return t.kind.name + " " + t.kind.namespace + "/" + t.kind.object
}
