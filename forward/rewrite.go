// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"net/http"
	"net/textproto"
	"slices"
	"strings"

	"github.com/egressd/egressd/policy"
)

// applyResponseHeaders applies the destination's and then the rule's
// operations to the response, and then those of the rules that led there.
func (x *exchange) applyResponseHeaders(dest *policy.RouteDestination) {
	x.responseHeaders(x.w.Header(), dest)
}

func (x *exchange) responseHeaders(h http.Header, dest *policy.RouteDestination) {
	if x.decision.Action == nil {
		return
	}
	x.changeResponse(h, x.decision.Action, dest)
	x.share(h)
	x.passBack(h, len(x.decision.Hops()))
}

// changeResponse does to an answer what a rule and its destination say.
func (x *exchange) changeResponse(h http.Header, a *policy.HTTPAction, to *policy.RouteDestination) {
	if to != nil && to.Headers != nil {
		to.Headers.Response.Apply(h)
	}
	if a.Rule.Headers != nil {
		a.Rule.Headers.Response.Apply(h)
	}
}

// hopByHop are the fields that end at each hop (RFC 9110, 7.6.1), beside
// those that Connection names.
var hopByHop = [...]string{
	"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate",
	"Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
	"Http2-Settings", // of an upgrade to h2c
}

// removeHopByHop removes what is not for the next hop from h.
func removeHopByHop(h http.Header) {
	for _, v := range h["Connection"] {
		for name := range strings.SplitSeq(v, ",") {
			if name = textproto.TrimString(name); name != "" {
				h.Del(name)
			}
		}
	}
	for _, name := range hopByHop {
		delete(h, name)
	}
}

// persistence is what fields of HTTP/1 say about how long a connection lives, but
// for "close", which net/http says itself.
type persistence struct {
	keepAlive bool // an option of Connection
	field     []string
}

func persistenceOf(h http.Header) persistence {
	return persistence{
		keepAlive: hasToken(h, "Connection", "keep-alive") && !hasToken(h, "Connection", "close"),
		field:     h["Keep-Alive"],
	}
}

// apply sets the field Keep-Alive.
func (p *persistence) apply(h http.Header) {
	if p.field != nil {
		h["Keep-Alive"] = p.field
	}
}

// connection is the Connection field of a request for its next hop: of what came,
// the options that go on, or what else says them.
func connection(came []string, options ...string) []string {
	goesOn := func(option string) bool {
		return slices.ContainsFunc(options, func(o string) bool { return strings.EqualFold(o, option) })
	}
	if len(came) == 1 {
		n, all := 0, true
		for option := range strings.SplitSeq(came[0], ",") {
			n++
			all = all && goesOn(textproto.TrimString(option))
		}
		if all && n == len(options) {
			return came // as it was sent
		}
	}
	if len(options) == 0 {
		return nil
	}
	return []string{strings.Join(options, ", ")}
}

// hasToken says whether a list-valued field of h has the token.
func hasToken(h http.Header, field, token string) bool {
	for _, v := range h[field] {
		for part := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(textproto.TrimString(part), token) {
				return true
			}
		}
	}
	return false
}

// upgradeType is the protocol that h asks to upgrade to, "" for none. An
// upgrade to another HTTP or to TLS counts as none, which a server may always
// do (RFC 9110, 7.8): within it requests would pass that nobody decides.
func upgradeType(h http.Header) string {
	if !hasToken(h, "Connection", "upgrade") || len(h["Upgrade"]) != 1 {
		return ""
	}
	protocol := textproto.TrimString(h["Upgrade"][0])
	name, _, _ := strings.Cut(strings.ToLower(protocol), "/")
	switch name {
	case "h2c", "h2", "http", "tls":
		return ""
	}
	if strings.Contains(protocol, ",") {
		return "" // a choice of several, one of which may be such
	}
	return protocol
}
