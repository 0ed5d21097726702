// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"cmp"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// asked is what a policy is asked about, and what was done with it when it was recorded.
// Flows that are alike in it are one.
type asked struct {
	workload string
	query    bool   // a DNS question, whose target is the name
	target   string // as explain.ParseTarget reads it
	method   string
	was      Treatment
}

// isPart says whether an event is about something that another one stands for: of a
// connection that carries HTTP its requests are decided one by one; a copy of a request,
// what a connection began with, and the end of what was denied or cut, decide nothing.
func isPart(e *flow.Event) bool {
	switch e.Kind {
	case flow.Mirror, flow.Spoken:
		return true
	case flow.Close:
		return e.Proto == "http" || !e.Allowed || e.WouldDeny
	}
	return e.Kind == flow.Decision && e.Proto == "http" && !e.Denied()
}

// cannot says why no policy can be asked about an event; "": it can.
func cannot(e *flow.Event) string {
	switch {
	case e.Layer == flow.Ingress:
		return "it came in at a gateway: what is allowed to come in is not asked about here"
	case e.Kind == flow.Query && e.Name == "":
		return "no name was recorded"
	case e.Kind == flow.Query:
		return ""
	case e.Kind != flow.Decision && e.Kind != flow.Close && e.Kind != flow.Request:
		return "events of kind " + string(e.Kind) + " are not known"
	case e.Detail == flow.TooMany:
		return "it stands for many destinations, which were not recorded"
	case e.Transport == 0:
		return "it is neither TCP nor UDP, which no policy allows"
	case e.Dst.Port() == 0:
		return "no port was recorded"
	case e.Denied() && !ofPolicy(e.Reason):
		return "it was refused for the reason " + string(e.Reason) + ", which is not the policy's"
	}
	return ""
}

// ofPolicy says whether a reason is one that a policy gives, so that another policy may
// do otherwise.
func ofPolicy(r policy.Reason) bool {
	switch r {
	case policy.ReasonNoRule, policy.ReasonPort, policy.ReasonTransport, policy.ReasonName, policy.ReasonNoName,
		policy.ReasonNotTLS, policy.ReasonNotHTTP, policy.ReasonAuthorization, policy.ReasonNoAllow, policy.ReasonNoRoute:
		return true
	}
	return false
}

// question is what a policy is asked about for an event.
func question(e *flow.Event) asked {
	q := asked{workload: e.Workload, was: Treatment{Allowed: e.Allowed && !e.WouldDeny, Verdict: e.Verdict, Reason: e.Reason}}
	if e.Rule != nil {
		q.was.Rule = e.Rule.Object()
	}
	if q.was.Allowed {
		q.was.Reason = policy.ReasonAllowed // whatever became of it then
	} else {
		q.was.Verdict = policy.Deny
	}
	if q.was.Allowed { // of events of the kernel there is nothing of it
		q.was.Way = wayOf(e)
	}
	if e.Kind == flow.Query {
		q.query, q.target = true, e.Name
		return q
	}
	at := net.JoinHostPort(hostOf(e), strconv.Itoa(int(e.Dst.Port())))
	switch {
	case e.Kind == flow.Request:
		q.method = e.Method
		q.target = "http://" + at
		if strings.HasPrefix(e.Path, "/") {
			q.target += e.Path
		}
	case e.Transport == policy.UDP:
		q.target = at + "/udp"
	case e.Reason == policy.ReasonNoName: // it began with TLS, and said no name
		q.target = "tls://" + e.Dst.String()
	case e.Proto == "http":
		q.target = "http://" + at
	case e.Reason == policy.ReasonNotTLS, e.Reason == policy.ReasonNotHTTP: // it began with something else
		q.target = "tcp://" + at
	case q.was.Allowed && q.was.Verdict == policy.Proxy && e.Proto == "tcp" && e.Destination != "": // it was passed unread
		q.target = "tcp://" + at
	case e.Name != "" && (e.Proto == "tls" || e.Verdict == policy.Inspect):
		q.target = "tls://" + at
	default:
		q.target = at
	}
	return q
}

// hostOf is the name that an event is about, without a port, or the address.
func hostOf(e *flow.Event) string {
	name := e.Name
	if host, _, err := net.SplitHostPort(name); err == nil {
		name = host
	}
	if a, err := netip.ParseAddr(strings.Trim(name, "[]")); err == nil {
		name = a.String() // a Host field with an address
	}
	if name == "" && e.Dst.IsValid() {
		return e.Dst.Addr().Unmap().WithZone("").String()
	}
	return cmp.Or(name, e.Proto, "-")
}

// isDescribed says whether a workload has the name of one that somebody described, as a
// Workload or a pod is.
func isDescribed(workload string) bool {
	namespace, name, ok := strings.Cut(workload, "/")
	return ok && namespace != "exec" && name != ""
}
