// SPDX-License-Identifier: Apache-2.0

package httpproxy

import (
	"strings"

	"github.com/egressd/egressd/forward/message"
	"github.com/egressd/egressd/forward/originate"
	"github.com/egressd/egressd/forward/upstream"
	"github.com/egressd/egressd/internal/field"
	"github.com/egressd/egressd/policy"
)

// hostOf is the host of an authority, without its port.
func hostOf(authority string) string {
	if host, _, err := message.ParseAuthority(authority); err == nil {
		return host
	}
	return strings.ToLower(authority)
}

// withhold takes out of a request what credentials are to be set to: a client's own
// values never go out in their place.
func withhold(o *message.Outgoing, list []policy.HeaderCredential) {
	o.Credentials = list
	unset(&o.Header, list)
}

// unset takes the fields of credentials out of a message.
func unset(h *field.List, list []policy.HeaderCredential) {
	for i := range list {
		h.Del(list[i].Name)
	}
}

// authorize sets the credentials of a request that is about to be sent on c.
func (x *exchange) authorize(c *upstream.HTTPConn, u *policy.Upstream, out *message.Outgoing) error {
	for i := range out.Credentials {
		if !c.Secured() {
			return &upstream.DialError{Err: &originate.TransportError{Why: policy.ReasonCredential, Text: "a value from a Secret or a file goes out only by TLS that a DestinationRule has egressd originate, and none does for " + u.Host}}
		}
		value, err := x.core.o.Originator.Credential(u, &out.Credentials[i])
		if err != nil {
			return &upstream.DialError{Err: err}
		}
		out.Header.Set(out.Credentials[i].Name, value)
	}
	return nil
}
