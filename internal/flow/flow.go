// SPDX-License-Identifier: Apache-2.0

// Package flow holds the events of egressd: what was decided about a flow and
// how it ended, and the sinks that events go to.
package flow

import (
	"net/netip"
	"sync"
	"time"

	"github.com/egressd/egressd/policy"
)

// Moment says which moment of a flow an Event describes.
type Moment string

// The kinds. Each flow has one Decision event; one that was forwarded also
// has one Close event. A Query is a DNS question, a Request an HTTP request.
// Lost stands, for a follower, for More events that were pushed out before it
// had read them. A Mirror is the copy of a request that a mirror got, or would
// have got. Spoken says, of a connection that audit mode let pass, what its first
// bytes are. A Position tells a follower that asked for it of no event, but how far it
// is: what came up to Number it has, or did not want.
const (
	Decision Moment = "decision"
	Close    Moment = "close"
	Query    Moment = "query"
	Request  Moment = "request"
	Mirror   Moment = "mirror"
	Spoken   Moment = "spoken"
	Lost     Moment = "lost"
	Position Moment = "position"
)

// Layer says which part of egressd made the decision.
type Layer string

// The layers.
const (
	Kernel  Layer = "kernel"
	DNS     Layer = "dns"
	Egress  Layer = "egress"
	Ingress Layer = "ingress"
)

// Process is who opened the flow, as the kernel saw it at that moment.
type Process struct {
	PID     int    `json:"pid,omitempty"` // thread group id, in the initial pid namespace
	UID     int    `json:"uid,omitempty"`
	Command string `json:"command,omitempty"` // at most 15 bytes (the kernel's comm)
}

// Event is one line of the flow log.
type Event struct {
	Time     time.Time `json:"time"`
	Kind     Moment    `json:"kind"`
	Layer    Layer     `json:"layer"`
	Workload string    `json:"workload,omitempty"`
	Process  Process   `json:"process"`
	// Interface is the network interface that the flow came by, when it did
	// not come from a socket of this kernel; Process is then empty.
	Interface string           `json:"interface,omitempty"`
	Transport policy.Transport `json:"-"`
	Proto     string           `json:"proto,omitempty"` // tcp, udp, ip, http, tls, dns
	// Dst is the destination that the workload dialled.
	Dst netip.AddrPort `json:"dst,omitzero"`
	// Socket is the path of the unix socket of a gateway that a visitor came by, in the
	// place of Dst.
	Socket string `json:"socket,omitempty"`
	// Name is the best name known for the flow: SNI, Host, the queried name,
	// or a name that Dst was learned for.
	Name string `json:"name,omitempty"`
	// Names are all that Dst may stand for, Name among them, when it is not
	// known which one is meant.
	Names   []string       `json:"names,omitempty"`
	Verdict policy.Verdict `json:"verdict"`
	// Allowed is false for a denial. In audit mode a would-be denial is
	// Allowed with WouldDeny set.
	Allowed   bool          `json:"allowed"`
	WouldDeny bool          `json:"wouldDeny,omitempty"`
	Reason    policy.Reason `json:"reason"`
	// Rule allowed the flow or, on a denial, is the nearest miss.
	Rule *policy.Ref `json:"rule,omitempty"`
	// Audited is the AUDIT AuthorizationPolicy that the flow matches, DryRun
	// the dry-run one that would deny it.
	Audited *policy.Ref `json:"audited,omitempty"`
	DryRun  *policy.Ref `json:"dryRunDeny,omitempty"`
	// Detail is a short human text, never needed to understand Reason.
	Detail string `json:"detail,omitempty"`

	// Upstream is the address that was really dialled; of what reached nobody, the one
	// that was tried last.
	Upstream netip.AddrPort `json:"upstream,omitzero"`
	// HTTP: method, path without query, response status, retries made.
	Method  string `json:"method,omitempty"`
	Path    string `json:"path,omitempty"`
	Status  int    `json:"status,omitempty"`
	Retries int    `json:"retries,omitempty"`
	// ResponseFlags say why an answer is not the upstream's, as Envoy's access
	// log does: "UF,URX". Empty: there is nothing to say (Envoy's "-").
	ResponseFlags string `json:"responseFlags,omitempty"`
	// StatPrefix is that of the match by which a rule acted.
	StatPrefix string `json:"statPrefix,omitempty"`
	// Route is the rule that sent a request, or a connection whose bytes are not read,
	// to where it went. Of HTTP RouteName is the name that it has there, Timeout the
	// rule's. Destination is the host of the service that it went on to, Subset the part
	// of it, Gateway the Gateway that it went through ("namespace/name"). None costs a
	// request an allocation.
	Route       *policy.Ref   `json:"route,omitempty"`
	RouteName   string        `json:"routeName,omitempty"`
	Timeout     time.Duration `json:"timeout,omitempty"` // nanoseconds in JSON
	Destination string        `json:"destination,omitempty"`
	Subset      string        `json:"subset,omitempty"`
	Gateway     string        `json:"gateway,omitempty"`
	// IdleTimeout and MaxDuration are those that DestinationRules give a connection whose
	// bytes are not read; 0: none does. A negative IdleTimeout: it has none.
	IdleTimeout time.Duration `json:"idleTimeout,omitempty"` // nanoseconds in JSON
	MaxDuration time.Duration `json:"maxDuration,omitempty"` // nanoseconds in JSON
	// BytesSent counts from the workload to the upstream.
	BytesSent     int64         `json:"bytesSent,omitempty"`
	BytesReceived int64         `json:"bytesReceived,omitempty"`
	Duration      time.Duration `json:"duration,omitempty"` // nanoseconds in JSON

	// More is set in an event that stands for that many like it, which came
	// within Duration after one that was told in full; see Denials.
	More int `json:"more,omitempty"`
	// Count is set in an event that stands for all of its kind, if there are
	// several: of these First is the time of the first, Time that of the last.
	Count int       `json:"count,omitempty"`
	First time.Time `json:"first,omitzero"`
	// Number counts the events of a Log, from 1; 0: it is none of a Log.
	Number uint64 `json:"number,omitempty"`
}

// Denied says whether the event is a denial, or what would be one but for the
// audit mode. How a denied flow ended is not one, nor what it began with.
func (e *Event) Denied() bool {
	return (!e.Allowed || e.WouldDeny) && e.Kind != Close && e.Kind != Spoken
}

// Sink takes events. Record must not block and must be safe for concurrent use. The event
// is the caller's again when it returns: what is kept of it is a copy.
type Sink interface {
	Record(e *Event)
}

// Teller has events that sinks were told, to be used again: one on the stack of whoever
// makes it would be put on the heap. The zero value is ready to use, by several
// goroutines.
type Teller struct{ used sync.Pool }

// Tell has s record e.
func (t *Teller) Tell(s Sink, e Event) {
	p, ok := t.used.Get().(*Event)
	if !ok {
		p = new(Event)
	}
	*p = e
	s.Record(p)
	*p = Event{} // what it points to is let go
	t.used.Put(p)
}
