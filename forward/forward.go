// SPDX-License-Identifier: Apache-2.0

// Package forward is the one forwarding core of the egress and the ingress
// side: it accepts connections, peeks at their first bytes under a deadline,
// routes HTTP requests by compiled rules, keeps upstream connections, applies
// timeouts, retries and faults, and splices opaque bytes.
//
// It knows no BPF and no YAML. What is allowed comes from a Decider, where
// upstreams are comes from a Dialer; egress and ingress implement both.
package forward

import (
	"github.com/egressd/egressd/forward/downstream"
	"github.com/egressd/egressd/forward/upstream"
)

// Conn, Handling, Admission and Decider are what a Core knows of a connection, and
// asks about it; Dialer is how it reaches upstreams. Egress and ingress have them
// from here.
type (
	Conn      = downstream.Conn
	Handling  = downstream.Handling
	Admission = downstream.Admission
	Decider   = downstream.Decider
	Dialer    = upstream.Dialer
)

// The ways to treat a connection.
const (
	Refuse = downstream.Refuse
	Opaque = downstream.Opaque
	TLS    = downstream.TLS
	HTTP   = downstream.HTTP
	Sniff  = downstream.Sniff
)
