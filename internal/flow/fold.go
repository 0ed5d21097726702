// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"net/netip"
	"sync"
	"time"

	"github.com/egressd/egressd/policy"
)

// Bounds of a Folder.
const (
	// FoldAfter is how long denials of one kind are counted before their
	// number is told.
	FoldAfter = 10 * time.Second
	// foldKinds is how many kinds of denials of one workload are told apart,
	// foldAll how many of all workloads. What is beyond is one kind for each
	// workload, layer and reason.
	foldKinds = 256
	foldAll   = 16384
)

// TooMany is the Detail of an event that stands for denials of many kinds.
const TooMany = "these were too many kinds of denials to tell apart"

// Key says which denials are of one kind.
type Key struct {
	Workload  string
	Layer     Layer
	Kind      Kind
	Allowed   bool // in audit mode
	Reason    policy.Reason
	Transport policy.Transport
	Interface string
	Dst       netip.AddrPort
	Command   string
	PID       int    // only where there is no Command
	Name      string // what the workload said: SNI, Host, the queried name
	Method    string
	Path      string
}

// KeyOf is the kind of a denial that has no other Key.
func KeyOf(e *Event) Key {
	k := Key{
		Workload: e.Workload, Layer: e.Layer, Kind: e.Kind, Allowed: e.Allowed, Reason: e.Reason,
		Transport: e.Transport, Dst: e.Dst, Interface: e.Interface, Command: e.Process.Command, Name: e.Name,
		Method: e.Method, Path: e.Path,
	}
	if k.Command == "" {
		k.PID = e.Process.PID
	}
	return k
}

// Folder makes few events of many: the first denial of each kind passes at
// once, and those that follow are counted, and told as one event in which More
// is their number. A workload can make millions of denials in a second, which
// nobody could read or store. Use NewFolder.
type Folder struct {
	mu    sync.Mutex
	kinds map[Key]*folded
	// of counts the kinds of each workload.
	of map[string]int
}

type folded struct {
	since time.Time // the first one, or the last time that the number was told
	more  int
	first Event
}

// NewFolder makes a Folder.
func NewFolder() *Folder { return &Folder{kinds: map[Key]*folded{}, of: map[string]int{}} }

// Fold says whether a denial is to be told, as the event that full makes.
// Otherwise it has been counted, and full is not called. Kinds that there is no
// room for any more are told once as a whole.
func (f *Folder) Fold(k Key, now time.Time, full func() Event) (Event, bool) {
	if f.count(k) {
		return Event{}, false
	}
	e := full() // looks things up, which others need not wait for
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.full(k) {
		k = k.rest()
	}
	if one := f.kinds[k]; one != nil { // meanwhile, or one of the rest
		one.more++
		return Event{}, false
	}
	first := e
	if k == k.rest() {
		first.Dst, first.Upstream, first.Name, first.Rule, first.Process, first.Method, first.Path, first.Detail = netip.AddrPort{}, netip.AddrPort{}, "", nil, Process{}, "", "", TooMany
	}
	f.kinds[k] = &folded{since: now, first: first}
	f.of[k.Workload]++
	return e, true
}

// rest is the kind of everything that there is no room for.
func (k Key) rest() Key {
	return Key{Workload: k.Workload, Layer: k.Layer, Kind: k.Kind, Allowed: k.Allowed, Reason: k.Reason}
}

// full says whether there is no room for one more kind of a workload.
func (f *Folder) full(k Key) bool {
	return f.of[k.Workload] >= foldKinds || len(f.kinds) >= foldAll
}

// count counts a denial of a kind that has been told.
func (f *Folder) count(k Key) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	one := f.kinds[k]
	if one == nil && f.full(k) {
		one = f.kinds[k.rest()]
	}
	if one != nil {
		one.more++
	}
	return one != nil
}

// Flush calls tell with what was counted since FoldAfter ago, or since earlier;
// all: and with what was counted since. Kinds of which there was no more are
// forgotten, so that the next one passes at once.
func (f *Folder) Flush(now time.Time, all bool, tell func(Event)) {
	for _, e := range f.due(now, all) {
		tell(e)
	}
}

func (f *Folder) due(now time.Time, all bool) []Event {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []Event
	for k, one := range f.kinds {
		took := now.Sub(one.since)
		switch {
		case !all && took < FoldAfter:
		case one.more == 0:
			delete(f.kinds, k)
			if f.of[k.Workload]--; f.of[k.Workload] <= 0 {
				delete(f.of, k.Workload)
			}
		default:
			e := one.first
			e.Time, e.More, e.Duration = now, one.more, took
			e.Process.PID = 0 // others may have done it as well
			out = append(out, e)
			one.since, one.more = now, 0
		}
	}
	return out
}
