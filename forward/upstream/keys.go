// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"net/netip"
	"slices"

	"github.com/egressd/egressd/forward/balance"
	"github.com/egressd/egressd/forward/limits"
	"github.com/egressd/egressd/policy"
)

// ServiceKey names what requests are for, ConnKey where they are sent:
// requests of one downstream connection with the same ConnKey share upstream
// connections.
type ServiceKey struct {
	Host  string
	Port  uint16
	HTTP2 bool
	// Subset and name tell parts of one host and port apart.
	name, Subset string
	secure
}

// secure is how connections are made beyond TCP, and the name that TLS is for.
type secure struct{ transport, server string }

// ConnKey is where a request is sent: the endpoint of a service.
type ConnKey struct {
	ServiceKey
	// endpoint, or socket, is the one that was drawn.
	endpoint netip.AddrPort
	socket   string
	namePort uint16 // of name
}

// KeyOf is the key of a request to the first endpoint of u.
func KeyOf(u *policy.Upstream, http2 bool) ConnKey {
	key := ConnKey{ServiceKey: ServiceKey{Host: u.Host, Port: u.Port, HTTP2: http2, Subset: u.Subset}}
	if key.transport = u.Transport(); key.transport != "" {
		key.server = u.ServerName
	}
	switch {
	case len(u.Endpoints) > 0:
		key.endpoint, key.socket = u.Endpoints[0].Addr, u.Endpoints[0].Unix
	case len(u.Names) > 0:
		key.name, key.namePort = u.Names[0].Name, u.Names[0].Port
	}
	return key
}

// Attempts are those of a request before the one that an endpoint is chosen for.
type Attempts struct {
	// Tried are the endpoints that are left out while there are others.
	Tried []ConnKey
	// Priorities are those of the endpoints so far, which the next attempts leave out as
	// well; nil: they do not.
	Priorities *balance.PreviousPriorities
}

func triedAt(u *policy.Upstream, i int, tried []ConnKey) bool {
	return slices.ContainsFunc(tried, func(k ConnKey) bool {
		if i < len(u.Endpoints) {
			return k.endpoint == u.Endpoints[i].Addr && k.socket == u.Endpoints[i].Unix
		}
		n := &u.Names[i-len(u.Endpoints)]
		return k.name == n.Name && k.namePort == n.Port
	})
}

// overflow is why a request or connection is refused that a limit of a
// DestinationRule's connectionPool has no room for (Envoy's circuit breakers, UO).
func overflow(r balance.Resource) error {
	return &limits.ExceededError{Reason: policy.ReasonOverflow, Text: "the limit of the DestinationRule's connectionPool on " + r.String() + " is reached"}
}

// errUnhealthy: outlier detection has left no endpoint (Envoy's UH).
func errUnhealthy(err error) error {
	return &limits.ExceededError{Reason: policy.ReasonUnhealthy, Text: err.Error()}
}
