// SPDX-License-Identifier: Apache-2.0

// Package flowsummary counts events: for each workload and host what was denied, what
// was allowed, how many bytes went, and since when.
package flowsummary

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/flowrecord"
)

// MaxPairs is how many workloads and hosts are told apart. What comes beyond that is
// counted together, of a workload each.
const MaxPairs = 100_000

// Rest is the host of what is counted together.
const Rest = "(others)"

// Tally is what is known of one workload and host.
type Tally struct {
	Workload string `json:"workload"`
	// Host is a name, or an address where no name is known.
	Host string `json:"host"`
	// Denied counts connections, requests and questions that were denied, or would have
	// been but for the audit mode; Allowed those that were not. Of a connection that
	// carries HTTP the requests count.
	Denied  int `json:"denied"`
	Allowed int `json:"allowed"`
	// BytesSent counts from the workload, of connections and requests that have ended.
	BytesSent     int64     `json:"bytesSent"`
	BytesReceived int64     `json:"bytesReceived"`
	First         time.Time `json:"first"`
	Last          time.Time `json:"last"`
	// Ports, Reasons and Commands are those that were seen, sorted; of Reasons those of
	// denials.
	Ports    []int    `json:"ports,omitempty"`
	Reasons  []string `json:"reasons,omitempty"`
	Commands []string `json:"commands,omitempty"`
}

// maxSeen is how many ports, reasons and commands of a pair are named.
const maxSeen = 8

type pair struct{ workload, host string }

// Summary counts. The zero value is ready.
type Summary struct {
	pairs map[pair]*Tally
	// Lost is how many events are known to be missing.
	Lost int
}

// Add counts an event.
func (s *Summary) Add(e *flow.Event) {
	n := flowrecord.Times(e)
	if e.Kind == flow.Lost {
		s.Lost += n
		return
	}
	// Of HTTP the requests are counted; a copy of one is none.
	carries := e.Proto == "http" && !e.Denied() && (e.Kind == flow.Decision || e.Kind == flow.Close)
	if carries || e.Kind == flow.Mirror || e.Kind == flow.Spoken {
		return
	}
	t := s.of(e)
	switch {
	case e.Denied():
		t.Denied += n
		note(&t.Reasons, string(e.Reason))
	case e.Kind != flow.Close:
		t.Allowed += n
	}
	t.BytesSent += e.BytesSent
	t.BytesReceived += e.BytesReceived
	begin := flowrecord.Begin(e)
	if e.Kind == flow.Close {
		begin = begin.Add(-e.Duration)
	}
	if t.First.IsZero() || begin.Before(t.First) {
		t.First = begin
	}
	if e.Time.After(t.Last) {
		t.Last = e.Time
	}
	if e.Dst.IsValid() && e.Kind != flow.Query {
		note(&t.Ports, int(e.Dst.Port()))
	}
	if e.Process.Command != "" {
		note(&t.Commands, e.Process.Command)
	}
}

// of is the tally that an event counts in.
func (s *Summary) of(e *flow.Event) *Tally {
	if s.pairs == nil {
		s.pairs = map[pair]*Tally{}
	}
	p := pair{e.Workload, HostOf(e)}
	if s.pairs[p] == nil && len(s.pairs) >= MaxPairs {
		p.host = Rest
	}
	t := s.pairs[p]
	if t == nil {
		t = &Tally{Workload: p.workload, Host: p.host}
		s.pairs[p] = t
	}
	return t
}

// HostOf is what an event is about: a name, an address, or what there is instead.
func HostOf(e *flow.Event) string {
	switch {
	case e.Name != "":
		return e.Name
	case e.Dst.IsValid():
		return e.Dst.Addr().Unmap().String()
	case e.Socket != "":
		return "unix:" + e.Socket
	}
	return cmp.Or(e.Proto, "-")
}

// note adds a value that is not there yet, sorted.
func note[T cmp.Ordered](list *[]T, v T) {
	i, there := slices.BinarySearch(*list, v)
	if !there && len(*list) < maxSeen {
		*list = slices.Insert(*list, i, v)
	}
}

// Tallies are what was counted: what was denied most, then what was allowed most. top
// bounds how many there are; 0: all.
func (s *Summary) Tallies(top int) []Tally {
	list := make([]Tally, 0, len(s.pairs))
	for t := range maps.Values(s.pairs) {
		list = append(list, *t)
	}
	slices.SortFunc(list, func(a, b Tally) int {
		return cmp.Or(cmp.Compare(b.Denied, a.Denied), cmp.Compare(b.Allowed, a.Allowed), cmp.Compare(a.Workload, b.Workload), cmp.Compare(a.Host, b.Host))
	})
	if top > 0 && len(list) > top {
		list = list[:top]
	}
	return list
}
