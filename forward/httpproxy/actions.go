// SPDX-License-Identifier: Apache-2.0

package httpproxy

import (
	"cmp"
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/egressd/egressd/forward/message"
	"github.com/egressd/egressd/internal/field"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// act does what the rule says, or forwards when there is none.
func (x *exchange) act() {
	a := x.decision.Action
	if a == nil {
		x.forward(x.decision.Upstream, nil)
		return
	}
	for i, h := range x.decision.Hops() {
		if x.injected(h.Action) || x.preflight(h.Action, i) {
			return
		}
	}
	if x.injected(a) || x.preflight(a, len(x.decision.Hops())) {
		return
	}
	switch rule := a.Rule; {
	case rule.Redirect != nil:
		x.redirect(rule.Redirect, a.Match)
	case rule.DirectResponse != nil:
		x.direct(rule.DirectResponse)
	default:
		x.routed = true
		x.route()
	}
}

// injected does what the rule's fault says; true when the request is answered.
func (x *exchange) injected(a *policy.HTTPAction) bool {
	return a.Rule.Fault != nil && x.fault(a.Rule.Fault)
}

// route forwards to one of the rule's destinations.
func (x *exchange) route() {
	dest := x.decision.Destination(x.req.Draw)
	switch {
	case dest == nil || dest.Upstream == nil && !dest.Denied:
		x.reason, x.detail = policy.ReasonNoDestination, "the route's destination is unknown"
		x.reply(cmp.Or(x.decision.Action.Rule.UnknownStatus, http.StatusServiceUnavailable), "egressd: the destination of the route for "+x.req.Host+" is unknown")
	case dest.Denied:
		name := "the destination of the route"
		if dest.Upstream != nil {
			name = dest.Upstream.Host
		}
		x.deny(policy.ReasonName, name)
	case dest.Upstream.Unsupported() != "":
		x.detail = dest.Upstream.Unsupported()
		x.deny(dest.Upstream.Refusal(), dest.Upstream.Host)
	default:
		x.forward(dest.Upstream, dest)
	}
}

// redirect answers with the rule's redirect, as Envoy does: no body.
func (x *exchange) redirect(r *policy.Redirect, m *policy.HTTPMatch) {
	_, query, _ := strings.Cut(x.target, "?")
	h := x.w.Header()
	h.Set("Location", message.RedirectLocation(r, m, x.decision.Request(&x.req), query))
	x.applyResponseHeaders(nil)
	if isGRPC(x.r) {
		x.replyGRPC(grpcStatus(message.RedirectCode(r), false), "")
		return
	}
	x.ours(h)
	x.writeStatus(message.RedirectCode(r))
}

// direct answers with the rule's own response. It is text unless the rule's
// headers say otherwise; gRPC clients get a status with it (Envoy's source/common/http/utility.cc, prepareLocalReply).
func (x *exchange) direct(d *policy.DirectResponse) {
	h := x.w.Header()
	x.applyResponseHeaders(nil)
	if isGRPC(x.r) {
		x.replyGRPC(grpcStatus(d.Status, false), string(d.Body))
		return
	}
	if !h.Has("Content-Type") && len(d.Body) > 0 {
		h.Set("Content-Type", "text/plain")
	}
	x.ours(h)
	if bodyAllowed(d.Status) {
		h.Set("Content-Length", strconv.Itoa(len(d.Body))) // for HEAD as well
	}
	x.writeStatus(d.Status)
	if x.r.Method != http.MethodHead && bodyAllowed(d.Status) {
		_, _ = x.w.Write(d.Body) // a client that went away
	}
}

// serverName is what answers of egressd's own say of who made them; those of
// upstreams say what these say.
const serverName = "egressd"

// ours marks an answer that no upstream gave.
func (x *exchange) ours(h *field.List) { h.Set("Server", serverName) }

// bodyAllowed says whether an answer with a status may have a body.
func bodyAllowed(status int) bool {
	return status >= 200 && status != http.StatusNoContent && status != http.StatusNotModified
}

// percent says whether a share of p (0 to 100) is hit, in steps of 0.0001.
func (x *exchange) percent(p float64) bool {
	return p > 0 && float64(x.core.o.Rand()%1_000_000) < p*10_000
}

// fault injects what the rule's fault says; true when the request is
// answered. Timeouts and retries do not apply to it (Istio's HTTPFaultInjection).
func (x *exchange) fault(f *policy.Fault) bool {
	if f.Delay > 0 && x.percent(f.DelayPercent) {
		x.detail = "delay injected"
		x.flag(flow.FlagDelayInjected)
		if !sleep(x.context(), f.Delay) {
			x.aborted(x.life.why())
		}
	}
	if f.AbortStatus == 0 && f.AbortGRPC < 0 || !x.percent(f.AbortPercent) {
		return false
	}
	x.reason = policy.ReasonFault
	if f.AbortStatus == 0 {
		x.replyGRPC(f.AbortGRPC, "fault filter abort")
		return true
	}
	x.reply(f.AbortStatus, "fault filter abort")
	return true
}

// sleep waits for d and returns false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
