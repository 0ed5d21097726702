// SPDX-License-Identifier: Apache-2.0

package httpproxy

import (
	"github.com/egressd/egressd/forward/message"
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

// nextHop removes from a request what is not for the next hop, but for what says how
// long a connection lives that is the client's own on both sides, for upgrades and
// for the wish for trailers. What stays keeps its place.
func (x *exchange) nextHop(h *field.List, own, closes, http2 bool) {
	came := x.r.Header
	upgrade := message.UpgradeType(came)
	trailers := came.HasToken("Te", "trailers")
	o := message.ConnectionOptions{
		KeepAlive: own && came.HasToken("Connection", "keep-alive") && !came.HasToken("Connection", "close"),
		Close:     closes,
		Upgrade:   upgrade != "" && !http2,
		TE:        trailers && !http2 && (x.r.ProtoMajor == 2 || came.HasToken("Connection", "te")), // RFC 9110, 10.1.4
	}
	o.Apply(h, own, !http2)
	if trailers {
		h.Set("Te", "trailers")
	}
}
