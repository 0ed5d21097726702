// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"time"
)

// InformerStatus is what an Informer knows of itself.
type InformerStatus struct {
	Server string `json:"server"`
	Node   string `json:"node"`
	// Synced says that everything has been read once; Awaited is what has not been,
	// and why.
	Synced  bool     `json:"synced"`
	Awaited []string `json:"awaited,omitempty"`
	// LastEvent is when the API server told something the last time.
	LastEvent time.Time             `json:"lastEvent,omitzero"`
	Kinds     map[string]KindStatus `json:"kinds"`
	// Problems are what is wrong with objects that are no policy, by their names.
	Problems map[string]string `json:"problems,omitempty"`
}

// KindStatus is what is known of a kind.
type KindStatus struct {
	// Defined says that the API server has the kind.
	Defined bool `json:"defined"`
	Synced  bool `json:"synced"`
	Objects int  `json:"objects"`
	// Errors counts failed requests. Error is the newest one's, if it failed.
	Errors  uint64    `json:"errors,omitempty"`
	Error   string    `json:"error,omitempty"`
	ErrorAt time.Time `json:"errorAt,omitzero"`
	// PutOff counts requests that the API server had too much to do for (429). They are
	// done again, and count as failed once that lasts.
	PutOff uint64 `json:"putOff,omitempty"`
}

// Status says how the Informer is.
func (s *Informer) Status() InformerStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := InformerStatus{
		Server: s.clients.server, Node: s.o.Node, Synced: s.synced, LastEvent: s.lastEvent,
		Kinds: make(map[string]KindStatus, len(s.tables)), Problems: map[string]string{},
	}
	if !s.synced {
		out.Awaited = s.awaited()
	}
	out.Kinds[s.definitions.kind.name] = KindStatus{
		Defined: true, Synced: s.definitions.synced, Errors: s.definitions.errors, Error: s.definitions.err, ErrorAt: s.definitions.errAt,
		PutOff: s.definitions.putOff,
	}
	for _, t := range s.tables {
		out.Kinds[t.kind.name] = KindStatus{
			Defined: !t.kind.defined() || t.present, Synced: t.synced, Objects: len(t.objects),
			Errors: t.errors, Error: t.err, ErrorAt: t.errAt, PutOff: t.putOff,
		}
		for _, o := range t.objects {
			if o.problem != "" {
				out.Problems[t.kind.name+" "+o.key()] = o.problem
			}
		}
	}
	sum := KindStatus{Defined: true, Synced: true}
	for _, w := range s.secrets.watched {
		t := w.table
		sum.Objects += len(t.objects)
		sum.Errors += t.errors
		sum.PutOff += t.putOff
		sum.Synced = sum.Synced && t.synced
		if t.err != "" {
			sum.Error, sum.ErrorAt = t.fullName()+": "+t.err, t.errAt
		}
	}
	out.Kinds["Secret"] = sum
	return out
}
