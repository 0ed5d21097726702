// SPDX-License-Identifier: Apache-2.0

// Package expect reads what people expect of a policy, written beside it as objects of
// kind PolicyTest, and says where the policy does something else.
package expect

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/egressd/egressd/explain"
	"github.com/egressd/egressd/policy"
)

// Case is what is expected of one connection or request.
type Case struct {
	// Test is the name of the PolicyTest; File and Line (from 1) are where the case stands.
	Test string `json:"test"`
	File string `json:"file"`
	Line int    `json:"line"`
	// Target is what explain.ParseTarget reads; the rest describes the request and
	// who makes it, as explain.Question has it.
	Target   string   `json:"target"`
	Workload string   `json:"workload,omitempty"`
	Method   string   `json:"method,omitempty"`
	Headers  []string `json:"headers,omitempty"`
	// Expect is "allow", "deny", the name of a verdict, or "redirect" or "respond" for what
	// a rule answers itself.
	Expect string `json:"expect"`
	// Reason is the reason, Rule the beginning of the rule that decides or acts, as
	// "KIND NAMESPACE/NAME"; Says are texts of which each stands in a step of the
	// explanation. Empty: any.
	Reason string   `json:"reason,omitempty"`
	Rule   string   `json:"rule,omitempty"`
	Says   []string `json:"says,omitempty"`
}

// Comparison is a case with what the policy does.
type Comparison struct {
	Case
	// Failures say how it differs from what is expected; none: it does not.
	Failures []string `json:"failures,omitempty"`
	// Explanation is unset where Failures say that there is none.
	Explanation explain.Explanation `json:"explanation"`
}

// Ok says whether the policy does what is expected.
func (o Comparison) Ok() bool { return len(o.Failures) == 0 }

// Run holds cases against a policy.
func Run(s *policy.Snapshot, cases []Case) []Comparison {
	out := make([]Comparison, 0, len(cases))
	for _, c := range cases {
		o := Comparison{Case: c}
		var err error
		if o.Explanation, err = c.explain(s); err != nil {
			o.Failures = []string{err.Error()}
		} else {
			o.Failures = c.compare(o.Explanation)
		}
		out = append(out, o)
	}
	return out
}

func (c Case) explain(s *policy.Snapshot) (explain.Explanation, error) {
	target, err := explain.ParseTarget(c.Target)
	if err != nil {
		return explain.Explanation{}, err
	}
	header, err := explain.ParseHeader(c.Headers)
	if err != nil {
		return explain.Explanation{}, err
	}
	return explain.Explain(s, nil, explain.Question{
		Target: target, Method: cmp.Or(c.Method, http.MethodGet), Header: header, Workload: c.Workload, Mode: policy.Enforce,
	})
}

// compare says how what the policy does differs from what is expected.
func (c Case) compare(x explain.Explanation) (failures []string) {
	differs := func(format string, args ...any) { failures = append(failures, fmt.Sprintf(format, args...)) }
	got := "denied"
	if x.Allowed {
		got = "allowed, verdict " + x.Verdict.String()
		switch r := x.Route; {
		case r != nil && r.Redirects:
			got += ", answered with a redirect"
		case r != nil && r.Responds:
			got += ", answered by the rule itself"
		}
	}
	got += by(x)
	switch {
	case c.Expect == Allow && x.Allowed && x.DeniedShare > 0:
		differs("%.4g%% of it is denied, expected allow", 100*x.DeniedShare)
	case c.Expect == Allow && x.Allowed, c.Expect == Deny && !x.Allowed, c.Expect == x.Verdict.String():
	case x.Allowed && x.Route != nil && (c.Expect == Redirect && x.Route.Redirects || c.Expect == Respond && x.Route.Responds):
	default:
		differs("%s, expected %s", got, c.Expect)
	}
	if c.Reason != "" && c.Reason != string(x.Reason) {
		differs("the reason is %s, expected %s", x.Reason, c.Reason)
	}
	if c.Rule != "" && !slices.ContainsFunc(rules(x), func(r string) bool { return r == c.Rule }) {
		differs("%s, expected %s to decide or to act", got, c.Rule)
	}
	for _, text := range c.Says {
		if !slices.ContainsFunc(said(x), func(s string) bool { return strings.Contains(s, text) }) {
			differs("no step says %q", text)
		}
	}
	return failures
}

// by names the rule of an explanation, and the reason of a denial.
func by(x explain.Explanation) string {
	switch {
	case !x.Allowed:
		return fmt.Sprintf(" (%s)", x.Reason)
	case x.Rule != nil:
		return fmt.Sprintf(" by %s", x.Rule)
	}
	return ""
}

// rules are the rules that decided or act, as KIND NAMESPACE/NAME.
func rules(x explain.Explanation) (out []string) {
	for _, r := range []*policy.Ref{x.Rule, x.Action} {
		if r != nil {
			out = append(out, r.Object())
		}
	}
	return out
}

// said are the texts of an explanation.
func said(x explain.Explanation) []string {
	out := slices.Clone(x.Steps)
	for r := x.Route; r != nil; {
		out = append(out, r.Does...)
		next := (*policy.Route)(nil)
		for _, b := range r.To {
			out = append(append(out, b.To), b.Does...)
			if next == nil {
				next = b.Next
			}
		}
		r = next
	}
	return out
}
