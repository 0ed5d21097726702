// SPDX-License-Identifier: Apache-2.0

package kubestatus

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	core "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	events "k8s.io/client-go/kubernetes/typed/events/v1"

	"github.com/egressd/egressd/internal/flow"
)

// Reasons of Events.
const (
	// ReasonDenied: a pod's traffic was denied; in mode audit, ReasonWouldDeny.
	ReasonDenied    = "EgressDenied"
	ReasonWouldDeny = "EgressWouldBeDenied"
	// ReasonRefused: an object is not in force as it is written.
	ReasonRefused = "Refused"
)

// queueLength is how many denials, and how many refusals, may wait to be told.
const queueLength = 256

// EventsOptions are what Events are made with.
type EventsOptions struct {
	Client events.EventsGetter
	Node   string
	Pods   Pods
	Log    *slog.Logger
	Now    func() time.Time // nil: time.Now
}

// Events writes Kubernetes Events: for the first denial of a destination by a
// pod, and as numbers for those that follow. What is too much for a pod or for
// the node is counted in one Event of the pod. Use NewEvents.
type Events struct {
	o       EventsOptions
	denials chan flow.Event
	refused chan refusal
	table   *table
	count   struct{ written, repeated, folded, dropped, failed, noPod atomic.Uint64 }
	// quiet is until when nothing is tried, because the API server is away.
	quiet   time.Time
	backoff time.Duration
	// warned says that Events are forbidden, which was said.
	warned bool
}

// EventStats count denials and refusals by what became of them.
type EventStats struct {
	Written  uint64 `json:"written"`  // Events that were made
	Repeated uint64 `json:"repeated"` // Events whose number was brought up to date
	Folded   uint64 `json:"folded"`   // denials without an Event of their own: too many
	Dropped  uint64 `json:"dropped"`  // denials that nobody had time for
	Failed   uint64 `json:"failed"`   // calls of the API server that failed, or were not made because it was away
	NoPod    uint64 `json:"noPod"`    // denials of what is no pod of this node
}

// NewEvents makes Events. Record may be called before Run.
func NewEvents(o EventsOptions) *Events {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Events{o: o, denials: make(chan flow.Event, queueLength), refused: make(chan refusal, queueLength), table: newTable()}
}

// Record implements flow.Sink: denials are told, if there is time and room.
func (v *Events) Record(e *flow.Event) {
	if !e.Denied() || e.Workload == "" {
		return
	}
	select {
	case v.denials <- *e:
	default:
		v.count.dropped.Add(1)
	}
}

// refusal is an object that is not in force as it is written.
type refusal struct {
	object core.ObjectReference
	note   string
}

// Refused tells that an object is refused. It never waits.
func (v *Events) Refused(object core.ObjectReference, text string) {
	select {
	case v.refused <- refusal{object, text}:
	default:
		v.count.dropped.Add(1)
	}
}

// Stats says what became of denials and refusals.
func (v *Events) Stats() EventStats {
	c := &v.count
	return EventStats{c.written.Load(), c.repeated.Load(), c.folded.Load(), c.dropped.Load(), c.failed.Load(), c.noPod.Load()}
}

// Run writes Events until ctx is done.
func (v *Events) Run(ctx context.Context) {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-v.denials:
			v.denied(ctx, &e)
		case r := <-v.refused:
			v.refuse(ctx, r)
		case <-tick.C:
			v.flush(ctx)
		}
	}
}

// denied tells a denial, or counts it.
func (v *Events) denied(ctx context.Context, e *flow.Event) {
	now := v.o.Now()
	n := int32(max(e.More, e.Count, 1))
	namespace, name, ok := strings.Cut(e.Workload, "/")
	if !ok {
		v.count.noPod.Add(1)
		return
	}
	uid, ok := v.o.Pods.UID(namespace, name)
	if !ok {
		v.count.noPod.Add(1)
		return
	}
	k := eventKey{pod: e.Workload, uid: uid, target: destination(e), reason: e.Reason, audit: e.WouldDeny}
	if v.table.again(k, n, now) {
		return
	}
	if v.away() {
		v.count.failed.Add(1)
		return
	}
	if !v.table.room(k, now) {
		v.count.folded.Add(uint64(n))
		if k = k.rest(); v.table.again(k, n, now) || v.table.full() {
			return
		}
	}
	about := &said{key: k, count: n, first: now, last: now, action: action(e), note: note(e, e.Workload, v.o.Node)}
	if k.target == "" {
		about.note = short(fmt.Sprintf(tooMany, e.Workload, v.o.Node), maxNote)
	}
	before, ok := v.write(ctx, v.event(about))
	if !ok {
		return
	}
	about.count += before
	about.told, about.toldAt = n, now
	v.table.add(about)
}

func (v *Events) event(s *said) *eventsv1.Event {
	namespace, name, _ := strings.Cut(s.key.pod, "/")
	out := v.newEvent(core.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: namespace, Name: name, UID: s.key.uid}, s.key.text())
	out.EventTime, out.Action, out.Note = meta.NewMicroTime(s.first), s.action, s.note
	out.Reason, out.Type = ReasonDenied, core.EventTypeWarning
	if s.key.audit {
		out.Reason, out.Type = ReasonWouldDeny, core.EventTypeNormal
	}
	if s.count > 1 {
		out.Series = &eventsv1.EventSeries{Count: s.count, LastObservedTime: meta.NewMicroTime(s.last)}
	}
	return out
}

// newEvent makes an Event. The same said of the same object has the same name, so
// that a daemon that starts again tells nothing twice.
func (v *Events) newEvent(about core.ObjectReference, what string) *eventsv1.Event {
	sum := sha256.Sum256([]byte(string(about.UID) + "\x00" + v.o.Node + "\x00" + what))
	namespace := about.Namespace
	if namespace == "" {
		namespace = meta.NamespaceDefault // of objects that have none
	}
	prefix := about.Name[:min(len(about.Name), 200)]
	return &eventsv1.Event{
		ObjectMeta: meta.ObjectMeta{Namespace: namespace, Name: prefix + "." + hex.EncodeToString(sum[:8])},
		Regarding:  about, ReportingController: reporter, ReportingInstance: short(v.o.Node, maxInstance),
	}
}

// refuse tells a refusal.
func (v *Events) refuse(ctx context.Context, r refusal) {
	if !v.table.refusals.AllowN(v.o.Now(), 1) {
		v.count.folded.Add(1)
		return
	}
	e := v.newEvent(r.object, r.note)
	e.EventTime, e.Action, e.Reason, e.Type = meta.NewMicroTime(v.o.Now()), "Read", ReasonRefused, core.EventTypeWarning
	e.Note = short(r.note, maxNote)
	v.write(ctx, e)
}

// flush brings the numbers of Events up to date, and forgets old ones.
func (v *Events) flush(ctx context.Context) {
	now := v.o.Now()
	for _, s := range v.table.due(now) {
		if !v.repeat(ctx, s) {
			return // the API server is away; the numbers stay to be told
		}
		s.told, s.toldAt = s.count, now
	}
}

// repeat brings the number of an Event up to date.
func (v *Events) repeat(ctx context.Context, s *said) bool {
	if v.away() {
		return false
	}
	e := v.event(s)
	patch, err := json.Marshal(map[string]any{"series": e.Series})
	if err != nil {
		return v.done(err)
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err = v.o.Client.Events(e.Namespace).Patch(call, e.Name, types.MergePatchType, patch, meta.PatchOptions{FieldManager: Manager})
	if errors.IsNotFound(err) { // it has expired
		_, ok := v.write(ctx, e)
		return ok
	}
	if err == nil {
		v.count.repeated.Add(1)
	}
	return v.done(err)
}

// write makes an Event. ok is false when it is not there. One that an earlier
// start made stays, and stands for before denials already.
func (v *Events) write(ctx context.Context, e *eventsv1.Event) (before int32, ok bool) {
	if v.away() {
		v.count.failed.Add(1)
		return 0, false
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	client := v.o.Client.Events(e.Namespace)
	_, err := client.Create(call, e, meta.CreateOptions{FieldManager: Manager})
	if !errors.IsAlreadyExists(err) {
		if err == nil {
			v.count.written.Add(1)
		}
		return 0, v.done(err)
	}
	there, err := client.Get(call, e.Name, meta.GetOptions{})
	if err != nil {
		return 0, v.done(err)
	}
	before = 1
	if there.Series != nil {
		before = there.Series.Count
	}
	return before, v.done(nil)
}

// Bounds of how long nothing is tried after a call that failed.
const (
	firstQuiet = time.Second
	longQuiet  = time.Minute
)

func (v *Events) away() bool { return v.o.Now().Before(v.quiet) }

// done says whether a call went well, and is quiet for a while after one that
// failed. What the API server refuses is no sign that it is away.
func (v *Events) done(err error) bool {
	if err == nil {
		v.backoff, v.quiet = 0, time.Time{}
		return true
	}
	v.count.failed.Add(1)
	if errors.IsForbidden(err) && !v.warned {
		v.warned = true
		v.o.Log.Warn("Kubernetes Events may not be written, so pods do not show what they are denied; traffic is not concerned. Is egressd's ClusterRole up to date?", "error", err)
	}
	if errors.IsForbidden(err) || errors.IsInvalid(err) || errors.IsNotFound(err) {
		v.o.Log.Debug("a Kubernetes Event was refused; traffic is not concerned", "error", err)
		return true // it would be refused again
	}
	v.backoff = min(max(2*v.backoff, firstQuiet), longQuiet)
	v.quiet = v.o.Now().Add(v.backoff)
	v.o.Log.Debug("a Kubernetes Event could not be written; traffic is not concerned", "error", err, "again_in", v.backoff)
	return false
}
