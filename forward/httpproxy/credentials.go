// SPDX-License-Identifier: Apache-2.0

package httpproxy

import (
	"net/http"
	"slices"
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
// values never go out in their place, in the trailer neither.
func withhold(o *message.Outgoing, list []policy.HeaderCredential) {
	o.Credentials = list
	unset(&o.Header, list)
	o.Trailer = slices.DeleteFunc(o.Trailer, func(name string) bool {
		return slices.ContainsFunc(list, func(c policy.HeaderCredential) bool { return strings.EqualFold(c.Name, name) })
	})
}

// unset takes the fields of credentials out of a message.
func unset(h *field.List, list []policy.HeaderCredential) {
	for i := range list {
		h.Del(list[i].Name)
	}
}

// authorize sets the credentials of a request that is about to be sent on c. A server
// answers TRACE with the request that it got, which would show the client the values
// (RFC 9110, 9.3.8).
func (x *exchange) authorize(c *upstream.HTTPConn, u *policy.Upstream, out *message.Outgoing) error {
	if len(out.Credentials) > 0 && out.Method == http.MethodTrace {
		return &upstream.DialError{Err: &originate.TransportError{Why: policy.ReasonCredential, Text: "a server answers TRACE with the headers that it got, so none goes out with a value from a Secret or a file"}}
	}
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
