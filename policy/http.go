// SPDX-License-Identifier: Apache-2.0

package policy

import "net/url"

// Request is what HTTP rules match on. Path has no query and is as the
// client sent it (still escaped). Header keys are canonical (net/textproto).
type Request struct {
	Method    string
	Scheme    string // http or https
	Authority string // Host or :authority, as sent
	Host      string // Authority, normalized, without port
	Path      string
	Query     url.Values
	Header    map[string][]string
	Port      uint16 // the port that the workload dialled, or the listener's
	// Gateway is "namespace/name" on the ingress side, "" for mesh.
	Gateway string
}

// HTTPDecision is the answer for one request. When Verdict is Deny nothing
// else but Reason and Rule (near miss) is set. Otherwise Action says what to
// do; a nil Action means: forward to Upstream as it is.
type HTTPDecision struct {
	Decision
	Action *HTTPAction
	// Upstream is the default upstream of the host (nil Action).
	Upstream *Upstream
	// Retries are for rules that say nothing of them, and where there is no
	// rule; nil: the safe default.
	Retries *Retries
}

// HTTPAction is a compiled HTTPRule together with the match that won.
type HTTPAction struct {
	Rule  *HTTPRule
	Match *HTTPMatch // nil when the rule matches everything
	// Destinations are compiled, weight 0 dropped, in the rule's order.
	Destinations []RouteDestination
	TotalWeight  uint32
}

// RouteDestination is one compiled destination. Upstream nil: the host is
// unknown (503 NC in Istio).
type RouteDestination struct {
	// Destination is what the rule names.
	Destination Destination
	Upstream    *Upstream
	Weight      uint32
	Headers     *Headers
	// Denied says that the workload may not reach the destination.
	Denied bool
	// gates are the guards on the way there.
	gates []gate
}

// refuses says which of the gates denies a flow that is allowed as own.
func (d *RouteDestination) refuses(f *Flow, own *HostPort, name string, r *Request) refusal {
	for i := range d.gates {
		if no := d.gates[i].refuses(f, own, name, r); no.reason != "" {
			return no
		}
	}
	return refusal{}
}
