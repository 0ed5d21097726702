// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"net/netip"
	"time"

	"github.com/egressd/egressd/internal/field"
	"github.com/egressd/egressd/policy"
)

// Observation is a moment of a flow as observers see it (access logs, metrics, traces): a
// request that has ended, a connection that has begun or ended, or what was denied.
// Of connections whose requests are seen one by one there is nothing beside these.
//
// It is good until Observe returns, and so are the strings of its fields: they are
// views of buffers that are used again.
type Observation struct {
	Event
	// Src is who connected, as far as it is known.
	Src netip.AddrPort
	// SNI is the name that the kernel read in the ClientHello, which may be none that the
	// address was learned for; "": it read none. What a proxy reads is the event's Name.
	SNI string
	// To is what the flow went to, or would have; nil: no destination was chosen.
	To *policy.Upstream
	// Host is the host that the flow was allowed as; nil: none, or it is To's.
	Host *policy.Host
	// Begun says that a connection was opened; how it ends is seen as well.
	Begun bool

	// The rest is of HTTP requests.

	// Major and Minor are the version's.
	Major, Minor int
	Scheme       string
	// Target is the path with its query as the client sent it, Authority its Host.
	Target, Authority string
	Request           field.List
	Response          field.List
	Trailer           field.List
	// Route is the name of the rule that acted, as its VirtualService has it.
	Route string
	// Answered is how long after its begin the head of the upstream's answer was
	// there; 0: none came.
	Answered time.Duration
	// RequestID is the x-request-id that was made for the request; "": it had one, or got
	// none.
	RequestID string
	// Trace are the identifiers of the request's span, in hexadecimal; "": there is
	// none.
	TraceID, SpanID string
}

// GRPC says whether the request is one of gRPC.
func (s *Observation) GRPC() bool {
	const grpc = "application/grpc"
	t := s.Request.Get("Content-Type")
	return len(t) >= len(grpc) && t[:len(grpc)] == grpc && (len(t) == len(grpc) || t[len(grpc)] == '+' || t[len(grpc)] == ';')
}

// ServerName is the name in the ClientHello; "": none was read, or it is not known. One
// that the kernel let pass by its names is not said again when the connection ends: it is
// known where only one was learned for the address.
func (s *Observation) ServerName() string {
	switch {
	case s.SNI != "":
		return s.SNI
	case s.Proto == "tls", s.Layer == Kernel && s.Verdict == policy.Inspect && len(s.Names) < 2:
		return s.Name
	}
	return ""
}

// ID is the x-request-id that the request went on with; "": none.
func (s *Observation) ID() string {
	if id := s.Request.Get("x-request-id"); id != "" {
		return id
	}
	return s.RequestID
}

// Observer is told of what is observed. Observe must not block, and keeps nothing of it
// that it has not copied. It is safe for concurrent use.
type Observer interface {
	Observe(s *Observation)
}

// Observers are several.
type Observers []Observer

// Observe implements Observer.
func (list Observers) Observe(s *Observation) {
	for _, o := range list {
		o.Observe(s)
	}
}
