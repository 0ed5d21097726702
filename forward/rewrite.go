// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"net/textproto"
	"strings"

	"github.com/egressd/egressd/forward/http1"
	"github.com/egressd/egressd/internal/field"
	"github.com/egressd/egressd/policy"
)

// applyResponseHeaders applies the destination's and then the rule's
// operations to the response, and then those of the rules that led there.
func (x *exchange) applyResponseHeaders(dest *policy.RouteDestination) {
	x.responseHeaders(x.w.Header(), dest)
}

func (x *exchange) responseHeaders(h *field.List, dest *policy.RouteDestination) {
	if x.decision.Action == nil {
		return
	}
	x.changeResponse(h, x.decision.Action, dest)
	x.share(h)
	x.passBack(h, len(x.decision.Hops()))
}

// changeResponse does to an answer what a rule and its destination say.
func (x *exchange) changeResponse(h *field.List, a *policy.HTTPAction, to *policy.RouteDestination) {
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

func isHopByHop(name string) bool {
	for _, n := range hopByHop {
		if field.Same(n, name) {
			return true
		}
	}
	return false
}

// removeHopByHop removes what is not for the next hop from h.
func removeHopByHop(h *field.List) {
	removeNamed(h)
	h.DelFunc(func(f *field.Entry) bool { return isHopByHop(f.Name) })
}

// removeNamed removes the fields that Connection names, but for those that are hop
// by hop anyway.
func removeNamed(h *field.List) {
	var space [http1.MaxOptions]string
	names := space[:0]
	for i := h.Index("Connection", 0); i >= 0; i = h.Index("Connection", i+1) {
		for name := range strings.SplitSeq((*h)[i].Value, ",") {
			if name = textproto.TrimString(name); name != "" && !isHopByHop(name) && len(names) < cap(names) {
				names = append(names, name)
			}
		}
	}
	if len(names) > 0 {
		h.DelFunc(func(f *field.Entry) bool { return containsName(names, f.Name) })
	}
}

// options are what goes on of Connection, or is said there by us.
type options struct {
	keepAlive, close, upgrade, te bool
}

// nextHop removes from a request what is not for the next hop, but for what says how
// long a connection lives that is the client's own on both sides, for upgrades and
// for the wish for trailers. What stays keeps its place.
func (x *exchange) nextHop(h *field.List, own, closes, http2 bool) {
	came := x.r.Header
	upgrade := upgradeType(came)
	trailers := came.HasToken("Te", "trailers")
	o := options{
		keepAlive: own && came.HasToken("Connection", "keep-alive") && !came.HasToken("Connection", "close"),
		close:     closes,
		upgrade:   upgrade != "" && !http2,
		te:        trailers && !http2 && (x.r.ProtoMajor == 2 || came.HasToken("Connection", "te")), // RFC 9110, 10.1.4
	}
	o.apply(h, own, !http2)
	if trailers {
		h.Set("Te", "trailers")
	}
}

// apply removes from h what is not for the next hop. Connection says what o says, in
// its old place; own: Keep-Alive stays; coding: Transfer-Encoding and
// Trailer do.
func (o *options) apply(h *field.List, own, coding bool) {
	removeNamed(h)
	h.DelFunc(func(f *field.Entry) bool {
		switch {
		case !isHopByHop(f.Name), field.Same(f.Name, "Connection"):
			return false
		case field.Same(f.Name, "Keep-Alive"):
			return !own
		case field.Same(f.Name, "Te"):
			return !field.Same(f.Value, "trailers")
		case field.Same(f.Name, "Transfer-Encoding"), field.Same(f.Name, "Trailer"):
			return !coding
		case field.Same(f.Name, "Upgrade"):
			return !o.upgrade
		}
		return true
	})
	i := h.Index("Connection", 0)
	if i >= 0 && h.Index("Connection", i+1) < 0 && o.are((*h)[i].Value) {
		return // as it was sent
	}
	var list [4]string
	if said := o.list(list[:0]); len(said) > 0 {
		h.Set("Connection", strings.Join(said, ", "))
	} else if i >= 0 {
		h.Del("Connection")
	}
}

func (o *options) list(into []string) []string {
	for _, x := range [...]struct {
		is   bool
		name string
	}{{o.keepAlive, "keep-alive"}, {o.upgrade, "Upgrade"}, {o.te, "TE"}, {o.close, "close"}} {
		if x.is {
			into = append(into, x.name)
		}
	}
	return into
}

// are says whether a Connection field says just what o does.
func (o *options) are(value string) bool {
	var said options
	for option := range strings.SplitSeq(value, ",") {
		switch option = textproto.TrimString(option); {
		case field.Same(option, "keep-alive"):
			said.keepAlive = true
		case field.Same(option, "close"):
			said.close = true
		case field.Same(option, "Upgrade"):
			said.upgrade = true
		case field.Same(option, "TE"):
			said.te = true
		default:
			return false
		}
	}
	return said == *o
}

// upgradeType is the protocol that h asks to upgrade to, "" for none. An
// upgrade to another HTTP or to TLS counts as none, which a server may always
// do (RFC 9110, 7.8): within it requests would pass that nobody decides.
func upgradeType(h field.List) string {
	i := h.Index("Upgrade", 0)
	if i < 0 || h.Index("Upgrade", i+1) >= 0 || !h.HasToken("Connection", "upgrade") {
		return ""
	}
	protocol := h[i].Value
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
