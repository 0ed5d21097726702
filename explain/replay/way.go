// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/egressd/egressd/explain"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
)

// RouteWay is how rules send a request, or a connection whose bytes are not read. The
// zero value says that nothing is known of it, or, of a policy, that no rule acts on the
// request.
type RouteWay struct {
	// Route is the object with the rule, KIND NAMESPACE/NAME, Name the rule's name there.
	Route string `json:"route,omitempty"`
	Name  string `json:"name,omitempty"`
	// Timeout is the rule's; 0: none.
	Timeout time.Duration `json:"timeout,omitempty"` // nanoseconds
	// Destination is the host of a service, and Subset its part; "": the rule answers
	// itself, or there is no rule and the request goes where its host is.
	Destination string `json:"destination,omitempty"`
	Subset      string `json:"subset,omitempty"`
	// Gateway is the egress gateway that it goes through, "namespace/name"; "": none.
	Gateway string `json:"gateway,omitempty"`
	// IdleTimeout and MaxDuration are those of the destination, for what is no request; 0:
	// it has none of its own, below 0: none at all. In nanoseconds.
	IdleTimeout time.Duration `json:"idleTimeout,omitempty"`
	MaxDuration time.Duration `json:"maxDuration,omitempty"`
}

// wayOf is what was recorded of a request.
func wayOf(e *flow.Event) RouteWay {
	w := RouteWay{
		Name: e.RouteName, Timeout: e.Timeout, Destination: e.Destination, Subset: e.Subset, Gateway: e.Gateway,
		IdleTimeout: e.IdleTimeout, MaxDuration: e.MaxDuration,
	}
	if e.Route != nil {
		w.Route = e.Route.Object()
	}
	return w
}

// recorded says whether it is known how a request went: lines of earlier versions don't
// say it, nor do those of requests that failed before.
func (w RouteWay) recorded() bool { return w.Route != "" || w.Destination != "" }

// waysOf are the ways that a flow may go: by rules, or, of a connection without one, to
// the host that was asked for. One that is zero: no rule acts on the request.
func waysOf(x explain.Explanation, request bool) []RouteWay {
	if x.Route != nil {
		return branches(x.Route, "", request)
	}
	u := x.Upstream
	if u == nil || request {
		return []RouteWay{{}}
	}
	return []RouteWay{{Destination: u.Host, Subset: u.Subset, IdleTimeout: u.IdleTimeout(), MaxDuration: u.MaxDuration()}}
}

// branches are the ways that a rule may send a flow that came through a gateway.
func branches(r *policy.Route, gateway string, request bool) []RouteWay {
	own := RouteWay{Route: r.Rule.Object(), Name: r.Name, Timeout: r.Timeout, Gateway: gateway}
	var out []RouteWay
	for i := range r.To {
		switch b := &r.To[i]; {
		case b.Next != nil:
			out = append(out, branches(b.Next, b.Gateway, request)...)
		case b.Allowed:
			w := own
			w.Destination, w.Subset = b.Host, b.Subset
			if !request {
				w.IdleTimeout, w.MaxDuration = b.IdleTimeout, b.MaxDuration
			}
			out = append(out, w)
		}
	}
	if len(out) == 0 {
		out = append(out, own)
	}
	return out
}

// isAmong says whether a flow that was recorded may go as it went. A request without a
// rule goes where its host is, as before. Of a connection a rule that leads where it goes
// anyway is none to the daemon, so that it is recorded without one.
func (w RouteWay) isAmong(ways []RouteWay, request bool) bool {
	return !w.recorded() || slices.ContainsFunc(ways, func(now RouteWay) bool {
		if request && w.Route == "" && now.Route == "" {
			return true
		}
		if !request && (w.Route == "" || now.Route == "") {
			now.Route = w.Route
		}
		if p := hostname.Pattern(now.Destination); p.IsWildcard() && p.Matches(w.Destination) {
			now.Destination = w.Destination // it was recorded by its own name
		}
		// One whose destination is not known failed on its way there.
		failed := w
		failed.Destination, failed.Subset = now.Destination, now.Subset
		return w == now || w.Destination == "" && failed == now
	})
}

// becomes says in words what is another.
func (w RouteWay) becomes(now RouteWay) string {
	var out []string
	if w.Route != now.Route || w.Name != now.Name { // of HTTP, or of another rule
		out = append(out, fmt.Sprintf("%s, where it went %s", now.rule(), w.rule()))
	}
	if w.Gateway != now.Gateway {
		out = append(out, fmt.Sprintf("%s, where it went %s", now.through(), w.through()))
	}
	if (now.Route != "" || now.Destination != "") && (w.Destination != now.Destination || w.Subset != now.Subset) {
		out = append(out, fmt.Sprintf("to %s, where it went to %s", now.to(), w.to()))
	}
	if w.Timeout != now.Timeout {
		out = append(out, fmt.Sprintf("with %s, where it had %s", now.limit(), w.limit()))
	}
	if w.IdleTimeout != now.IdleTimeout {
		out = append(out, fmt.Sprintf("with %s, where it had %s", idle(now.IdleTimeout), idle(w.IdleTimeout)))
	}
	if w.MaxDuration != now.MaxDuration {
		out = append(out, fmt.Sprintf("for %s, where it was for %s", longest(now.MaxDuration), longest(w.MaxDuration)))
	}
	return strings.Join(out, "; ")
}

func (w RouteWay) through() string {
	if w.Gateway == "" {
		return "through no egress gateway"
	}
	return "through the egress gateway " + w.Gateway
}

func idle(d time.Duration) string {
	switch {
	case d < 0:
		return "no idle timeout"
	case d == 0:
		return "the node's idle timeout"
	}
	return "idle timeout " + d.String()
}

func longest(d time.Duration) string {
	if d == 0 {
		return "any time"
	}
	return d.String() + " at most"
}

func (w RouteWay) rule() string {
	switch {
	case w.Route == "":
		return "by no route"
	case w.Name != "":
		return fmt.Sprintf("by route %q of %s", w.Name, w.Route)
	}
	return "by " + w.Route
}

func (w RouteWay) to() string {
	switch {
	case w.Destination == "":
		return "nowhere: the rule answers itself"
	case w.Subset != "":
		return w.Destination + " (subset " + w.Subset + ")"
	}
	return w.Destination
}

func (w RouteWay) limit() string {
	if w.Timeout == 0 {
		return "no timeout"
	}
	return "timeout " + w.Timeout.String()
}
