// SPDX-License-Identifier: Apache-2.0

package kubestatus

import (
	"cmp"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/quote"
	"github.com/egressd/egressd/policy"
)

// Bounds of what the API server takes in an Event (core/validation/events.go).
const (
	maxNote     = 1024
	maxInstance = 128
)

// tooMany is the note of the Event that stands for denials without one.
const tooMany = `Connections or queries to further destinations are denied; they are too many for an Event each. "egressd flows --pod %s --verdict deny" on node %s lists them.`

// destination is what a denied flow was for, as a person would write it.
func destination(e *flow.Event) string {
	name := cmp.Or(e.Name, strings.Join(e.Names, " or "))
	switch {
	case e.Kind == flow.Query:
		return name
	case e.Dst.IsValid() && name != "":
		return fmt.Sprintf("%s:%d/%s", name, e.Dst.Port(), e.Transport)
	case e.Dst.IsValid():
		return fmt.Sprintf("%s/%s", e.Dst, e.Transport)
	}
	return cmp.Or(name, e.Transport.String()+" socket")
}

// action is what was tried, as Events have it.
func action(e *flow.Event) string {
	switch e.Kind {
	case flow.Query:
		return "Resolve"
	case flow.Request:
		return "Request"
	}
	return "Connect"
}

// why says in words what a reason means. Those that are not here are rare, and
// docs/REASONS.md has them.
func why(r policy.Reason) string {
	switch r {
	case policy.ReasonNoRule:
		return "no ServiceEntry that counts for this pod has the destination"
	case policy.ReasonName:
		return "no ServiceEntry that counts for this pod has the host"
	case policy.ReasonPort:
		return "the host is allowed, but not on this port"
	case policy.ReasonTransport:
		return "the host is allowed on this port, but not by this transport"
	case policy.ReasonAuthorization:
		return "an AuthorizationPolicy denies it"
	case policy.ReasonNoAllow:
		return "AuthorizationPolicies guard the destination, and none of them allows it"
	case policy.ReasonNoRoute:
		return "no HTTP rule of the host matches the request"
	case policy.ReasonPolicyChanged:
		return "it was open, and the policy that is in force now denies it"
	}
	return "see docs/REASONS.md"
}

// howTo says what allows a denied flow.
func howTo(e *flow.Event, pod, node string) string {
	where := fmt.Sprintf(`"egressd explain --pod %s %s" on node %s`, pod, asked(e), node)
	namespace, _, _ := strings.Cut(pod, "/")
	host, port := cmp.Or(e.Name, strings.Join(e.Names, " or ")), ""
	if e.Dst.IsValid() && e.Kind != flow.Query {
		port = fmt.Sprintf(" and port %d", e.Dst.Port())
	}
	switch e.Reason {
	case policy.ReasonName, policy.ReasonNoRule:
		what := "host " + host
		if host == "" {
			what = fmt.Sprintf("address %s", e.Dst.Addr())
		}
		return fmt.Sprintf("To allow it, apply a ServiceEntry with %s%s in namespace %s; %s writes it.", what, port, namespace, where)
	case policy.ReasonPort, policy.ReasonTransport:
		return fmt.Sprintf("To allow it, add the port to the ServiceEntry; %s says how.", where)
	case policy.ReasonAuthorization, policy.ReasonNoAllow, policy.ReasonNoRoute:
		return fmt.Sprintf("To allow it, change that rule; %s has each step.", where)
	}
	return where + " has each step."
}

// asked is the target as explain takes it.
func asked(e *flow.Event) string {
	host := cmp.Or(e.Name, strings.Join(e.Names[:min(1, len(e.Names))], ""))
	suffix := ""
	if e.Transport == policy.UDP {
		suffix = "/udp"
	}
	switch {
	case e.Kind == flow.Query:
		return host + ":443"
	case host != "" && e.Dst.IsValid():
		return fmt.Sprintf("%s:%d%s", host, e.Dst.Port(), suffix)
	}
	return e.Dst.String() + suffix
}

// note is the text of a denial's Event. Names in it are chosen by the pod.
func note(e *flow.Event, pod, node string) string {
	done := "was denied"
	if e.WouldDeny {
		done = "would be denied (mode audit; it went on)"
	}
	who := "a process"
	if c := e.Process.Command; c != "" {
		who = quote.Word(c)
	}
	what := "the connection of %s to %s"
	switch e.Kind {
	case flow.Query:
		what = "the DNS query of %s for %s"
	case flow.Request:
		what = "the HTTP request of %s to %s"
	}
	var b strings.Builder
	fmt.Fprintf(&b, what+" %s: %s (%s).", who, destination(e), done, why(e.Reason), e.Reason)
	if e.Rule != nil {
		fmt.Fprintf(&b, " The nearest rule is %s.", e.Rule.Object())
	}
	b.WriteString(" " + howTo(e, pod, node))
	return short(strings.ToUpper(b.String()[:1])+b.String()[1:], maxNote)
}

// short cuts a text to at most most bytes of one line.
func short(s string, most int) string {
	s = quote.Line(s)
	if len(s) <= most {
		return s
	}
	const end = "…"
	cut := most - len(end)
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + end
}
