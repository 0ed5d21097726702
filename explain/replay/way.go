// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
)

// RouteWay is how rules send a request. The zero value says that nothing is known of it,
// or, of a policy, that no rule acts.
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
}

// wayOf is what was recorded of a request.
func wayOf(e *flow.Event) RouteWay {
	w := RouteWay{Name: e.RouteName, Timeout: e.Timeout, Destination: e.Destination, Subset: e.Subset}
	if e.Route != nil {
		w.Route = e.Route.Object()
	}
	return w
}

// recorded says whether it is known how a request went: lines of earlier versions don't
// say it, nor do those of requests that failed before.
func (w RouteWay) recorded() bool { return w.Route != "" || w.Destination != "" }

// waysOf are the ways that rules may send a request; one that is zero: no rule acts.
func waysOf(r *policy.Route) []RouteWay {
	if r == nil {
		return []RouteWay{{}}
	}
	var out []RouteWay
	for i := range r.To {
		switch b := &r.To[i]; {
		case b.Next != nil:
			out = append(out, waysOf(b.Next)...)
		case b.Allowed:
			out = append(out, RouteWay{r.Rule.Object(), r.Name, r.Timeout, b.Host, b.Subset})
		}
	}
	if len(out) == 0 {
		out = append(out, RouteWay{Route: r.Rule.Object(), Name: r.Name, Timeout: r.Timeout})
	}
	return out
}

// isAmong says whether a request that was recorded may go as it went. Without a rule it
// goes where its host is, as before.
func (w RouteWay) isAmong(ways []RouteWay) bool {
	return !w.recorded() || slices.ContainsFunc(ways, func(now RouteWay) bool {
		if w.Route == "" && now.Route == "" {
			return true
		}
		if p := hostname.Pattern(now.Destination); p.IsWildcard() && p.Matches(w.Destination) {
			now.Destination = w.Destination // it was recorded by its own name
		}
		// One whose destination is not known failed on its way there.
		return w == now || w.Destination == "" && w.Route == now.Route && w.Name == now.Name && w.Timeout == now.Timeout
	})
}

// becomes says in words what is another.
func (w RouteWay) becomes(now RouteWay) string {
	var out []string
	if w.Route != now.Route || w.Name != now.Name {
		out = append(out, fmt.Sprintf("%s, where it went %s", now.rule(), w.rule()))
	}
	if now.Route != "" && (w.Destination != now.Destination || w.Subset != now.Subset) {
		out = append(out, fmt.Sprintf("to %s, where it went to %s", now.to(), w.to()))
	}
	if w.Timeout != now.Timeout {
		out = append(out, fmt.Sprintf("with %s, where it had %s", now.limit(), w.limit()))
	}
	return strings.Join(out, "; ")
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
