// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/egressd/egressd/policy"
)

// Bounds of Denials.
const (
	// FoldAfter is how long denials of one kind are counted before their
	// number is told.
	FoldAfter = 10 * time.Second
	// kindsEach is how many kinds of denials of one workload are told apart,
	// kindsAll how many of all workloads.
	kindsEach = 2048
	kindsAll  = 16384
	// forgetAfter is how long ago the last denial of a kind must be for the
	// kind to be forgotten, when somebody needs the room.
	forgetAfter = 24 * time.Hour
	// forgetEvery bounds how often such kinds are looked for.
	forgetEvery = time.Minute
)

// TooMany is the Detail of an event that stands for denials of many kinds.
const TooMany = "these were too many kinds of denials to tell apart"

// Key says which denials are of one kind.
type Key struct {
	Workload  string
	Layer     Layer
	Kind      Moment
	Allowed   bool // in audit mode
	Reason    policy.Reason
	Transport policy.Transport
	Interface string
	Dst       netip.AddrPort
	Socket    string // of a gateway
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
		Transport: e.Transport, Dst: e.Dst, Socket: e.Socket, Interface: e.Interface, Command: e.Process.Command, Name: e.Name,
		Method: e.Method, Path: e.Path,
	}
	if k.Command == "" {
		k.PID = e.Process.PID
	}
	return k
}

// rest is the kind of everything that there is no room for.
func (k Key) rest() Key {
	return Key{Workload: k.Workload, Layer: k.Layer, Kind: k.Kind, Allowed: k.Allowed, Reason: k.Reason}
}

// DenialTable is the table of what was denied, or would be but for the audit mode:
// each kind once, with the first event, how many there were, and when the last
// one was. What was allowed is not in it and takes no room of it. A workload
// has a share, and within that each program has one: who makes many kinds of
// denials finds its newest folded into one, which is told as well, and makes
// nobody else's vanish. Use NewDenials.
type DenialTable struct {
	mu    sync.Mutex
	kinds map[Key]*kind
	// of has the kinds of each workload by program, oldest first; what was
	// folded is in none of them.
	of     map[string]*shareOf
	told   int // kinds in of
	untold map[*kind]bool
	swept  time.Time

	folded, forgotten uint64
}

type shareOf struct {
	kinds int
	by    map[string][]*kind // by command
}

type kind struct {
	key         Key
	event       Event // the first
	count       int
	first, last time.Time
	// since is when it was told last, more how many came after that.
	since time.Time
	more  int
}

// NewDenials makes a table.
func NewDenials() *DenialTable {
	return &DenialTable{kinds: map[Key]*kind{}, of: map[string]*shareOf{}, untold: map[*kind]bool{}}
}

// Add counts a denial, and says whether it is to be told now, as the event that
// full makes: the first of a kind, and one after the kind was quiet for
// FoldAfter. The others are told by Flush, as a number. full is not called for
// what is only counted.
func (d *DenialTable) Add(k Key, now time.Time, full func() Event) (Event, bool) {
	if d.count(k, now) {
		return Event{}, false
	}
	e := full() // looks things up, which others need not wait for
	d.mu.Lock()
	defer d.mu.Unlock()
	if one := d.kinds[k]; one != nil {
		return e, one.again(now, d.untold)
	}
	if !d.makeRoom(k, now) {
		d.folded++
		return e, d.fold(k, e, now, 1)
	}
	one := &kind{key: k, event: e, count: 1, first: now, last: now, since: now}
	d.kinds[k] = one
	s := d.of[k.Workload]
	if s == nil {
		s = &shareOf{by: map[string][]*kind{}}
		d.of[k.Workload] = s
	}
	s.by[k.Command] = append(s.by[k.Command], one)
	s.kinds++
	d.told++
	return e, true
}

// count counts a denial of a kind that needs no event.
func (d *DenialTable) count(k Key, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	one := d.kinds[k]
	if one == nil && d.full(k) && !d.claims(k) {
		if one = d.kinds[k.rest()]; one != nil {
			d.folded++
		}
	}
	if one == nil || one.more == 0 && now.Sub(one.since) >= FoldAfter {
		return false
	}
	one.again(now, d.untold)
	return true
}

// again counts one more of a kind, and says whether it is to be told.
func (k *kind) again(now time.Time, untold map[*kind]bool) bool {
	k.count++
	k.last = now
	if k.more == 0 && now.Sub(k.since) >= FoldAfter {
		k.since = now
		return true
	}
	k.more++
	untold[k] = true
	return false
}

// fold counts n denials of a kind that there is no room for, and says whether
// e is to be told, as the first of these.
func (d *DenialTable) fold(k Key, e Event, now time.Time, n int) bool {
	rest := k.rest()
	one := d.kinds[rest]
	if one == nil {
		one = &kind{key: rest, event: e, first: now, last: now, since: now, count: n}
		one.event.Dst, one.event.Upstream, one.event.Name, one.event.Rule = netip.AddrPort{}, netip.AddrPort{}, "", nil
		one.event.Names, one.event.Process, one.event.Method, one.event.Path, one.event.Detail = nil, Process{}, "", "", TooMany
		one.event.Interface = ""
		d.kinds[rest] = one
		return true
	}
	tell := one.again(now, d.untold)
	one.count += n - 1
	return tell
}

// full says whether there is no room for one more kind of a workload.
func (d *DenialTable) full(k Key) bool {
	s := d.of[k.Workload]
	return d.told >= kindsAll || s != nil && s.kinds >= kindsEach
}

// claims says whether a kind may have the place of another one: its program
// has less than a fair share of the workload's, or its workload of all.
func (d *DenialTable) claims(k Key) bool { return d.victim(k) != nil }

// victim is the kind whose place k may have: the newest of the program that has
// most, in the workload itself or, where it has little, in the one that has
// most; nil: none.
func (d *DenialTable) victim(k Key) *kind {
	s := d.of[k.Workload]
	from := s
	if d.told >= kindsAll && (s == nil || s.kinds < kindsEach) {
		for _, other := range d.of {
			if from == nil || other.kinds > from.kinds {
				from = other
			}
		}
		if s != nil && from != s && s.kinds+1 >= from.kinds {
			from = s
		}
	}
	if from == nil || 2*len(from.by) > from.kinds {
		return nil // each has one, or two
	}
	most := ""
	for command, list := range from.by {
		if len(list) > len(from.by[most]) {
			most = command
		}
	}
	list := from.by[most]
	if from == s && len(s.by[k.Command])+1 >= len(list) {
		return nil
	}
	return list[len(list)-1]
}

// makeRoom says whether there is room for a kind, after another one, or what is
// old, has made some.
func (d *DenialTable) makeRoom(k Key, now time.Time) bool {
	if d.full(k) {
		d.forget(now)
	}
	if !d.full(k) {
		return true
	}
	one := d.victim(k)
	if one == nil {
		return false
	}
	d.remove(one)
	d.folded++
	d.fold(one.key, one.event, now, one.count)
	return !d.full(k)
}

// forget drops the kinds whose last denial is long ago.
func (d *DenialTable) forget(now time.Time) {
	if now.Sub(d.swept) < forgetEvery {
		return
	}
	d.swept = now
	for key, one := range d.kinds {
		if now.Sub(one.last) < forgetAfter || d.untold[one] {
			continue
		}
		if key == key.rest() {
			delete(d.kinds, key)
		} else {
			d.remove(one)
		}
		d.forgotten++
	}
}

// remove takes a kind out.
func (d *DenialTable) remove(one *kind) {
	delete(d.kinds, one.key)
	delete(d.untold, one)
	s := d.of[one.key.Workload]
	list := s.by[one.key.Command]
	list = slices.DeleteFunc(list, func(k *kind) bool { return k == one })
	if len(list) > 0 {
		s.by[one.key.Command] = list
	} else {
		delete(s.by, one.key.Command)
	}
	if s.kinds--; s.kinds == 0 {
		delete(d.of, one.key.Workload)
	}
	d.told--
}

// Flush calls tell with what was counted since FoldAfter ago, or since earlier;
// all: and with what was counted since.
func (d *DenialTable) Flush(now time.Time, all bool, tell func(Event)) {
	for _, e := range d.due(now, all) {
		tell(e)
	}
}

func (d *DenialTable) due(now time.Time, all bool) []Event {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []Event
	for one := range d.untold {
		took := now.Sub(one.since)
		if !all && took < FoldAfter {
			continue
		}
		e := one.event
		e.Time, e.More, e.Duration = now, one.more, took
		e.Process.PID = 0 // others may have done it as well
		out = append(out, e)
		one.since, one.more = now, 0
		delete(d.untold, one)
	}
	return out
}

// List returns the kinds, by the time of the last denial. Each is the first
// event of its kind, with Time, First and Count of all of them.
func (d *DenialTable) List() []Event {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]Event, 0, len(d.kinds))
	for _, one := range d.kinds {
		e := one.event
		e.First, e.Time, e.Count = one.first, one.last, one.count
		if e.Count == 1 {
			e.First, e.Time, e.Count = time.Time{}, one.event.Time, 0
		}
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b Event) int {
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.Name, b.Name), a.Dst.Compare(b.Dst))
	})
	return out
}

// DenialStats is how full the table is.
type DenialStats struct {
	Kinds int `json:"kinds"`
	Max   int `json:"max"`
	// Folded counts the denials that lost, or never had, a place of their own;
	// Forgotten the kinds that made room a day after their last denial.
	Folded    uint64 `json:"folded"`
	Forgotten uint64 `json:"forgotten"`
}

// Stats says how full the table is.
func (d *DenialTable) Stats() DenialStats {
	d.mu.Lock()
	defer d.mu.Unlock()
	return DenialStats{Kinds: d.told, Max: kindsAll, Folded: d.folded, Forgotten: d.forgotten}
}
