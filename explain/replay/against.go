// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"cmp"
	"fmt"
	"net/http"
	"strings"

	"github.com/egressd/egressd/explain"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// against is a policy that is asked.
type against struct {
	snapshot  *policy.Snapshot
	described map[string]bool // workloads, by "namespace/name"
}

// ask asks about a flow. A change without a kind is none.
func (p *against) ask(q asked, r *recorded) (FlowChange, error) {
	x, err := p.explain(q)
	if err != nil {
		return FlowChange{}, err
	}
	c := FlowChange{
		Workload: q.workload, Host: hostOf(&r.event), Target: q.target, Method: q.method, Count: max(r.count, 1), First: r.first, Last: r.last,
		Was: q.was, Now: Treatment{Allowed: x.Allowed, Verdict: x.Verdict, Reason: x.Reason}, Steps: x.Steps,
	}
	if x.Rule != nil {
		c.Now.Rule = x.Rule.Object()
	}
	request := q.method != ""
	ways := waysOf(x, request)
	if x.Allowed && (q.was.Way.recorded() || !request && x.Verdict == policy.Proxy) {
		c.Now.Way = ways[0]
	}
	switch {
	case c.Was.Allowed && !c.Now.Allowed:
		c.Kind = Denied
		e := r.event
		e.Allowed, e.Reason = false, x.Reason
		if e.Kind == flow.Close {
			e.Kind = flow.Decision // as its beginning was
		}
		c.Allow = explain.AllowItem(&e)
	case !c.Was.Allowed && c.Now.Allowed:
		c.Kind = Allowed
	case c.Was.Allowed && (differs(q, c.Now) || x.DeniedShare > 0 || !q.was.Way.isAmong(ways, request)):
		c.Kind = Otherwise
	default:
		return FlowChange{}, nil
	}
	c.Says = sentence(&c, x)
	c.Lacks = lacks(q, &r.event)
	return c, nil
}

// explain asks the engine that egressd explain asks.
func (p *against) explain(q asked) (explain.Explanation, error) {
	workload := q.workload
	if !p.described[workload] {
		workload = "" // every process that nobody describes
	}
	if q.query {
		return explain.ExplainQuery(p.snapshot, workload, q.target)
	}
	target, err := explain.ParseTarget(q.target)
	if err != nil {
		return explain.Explanation{}, err
	}
	return explain.Explain(p.snapshot, nil, explain.Question{
		Target: target, Method: cmp.Or(q.method, http.MethodGet), Workload: workload, Mode: policy.Enforce,
	})
}

// differs says whether what is allowed goes another way than it went. A connection that
// the kernel passed has the verdict that it was passed by, and one that came to the
// proxy the proxy's.
func differs(q asked, now Treatment) bool { return q.was.Verdict != now.Verdict }

// sentence says what changes.
func sentence(c *FlowChange, x explain.Explanation) string {
	what := c.Target
	if c.Method != "" {
		what = c.Method + " " + what
	}
	why := ""
	if n := len(x.Steps); n > 0 {
		why = ": " + x.Steps[n-1]
		for _, s := range x.Steps { // what denied it, rather than what comes near
			if !c.Now.Allowed && !strings.HasPrefix(s, "nearest") {
				why = ": " + s
			}
		}
	}
	switch c.Kind {
	case Denied:
		return fmt.Sprintf("%s was allowed%s, and would be denied (%s)%s", what, by(c.Was), c.Now.Reason, why)
	case Allowed:
		return fmt.Sprintf("%s was denied (%s), and would be allowed, verdict %s%s", what, c.Was.Reason, c.Now.Verdict, by(c.Now))
	}
	if x.DeniedShare > 0 {
		return fmt.Sprintf("%s was allowed%s, and %.4g%% of it would be denied", what, by(c.Was), 100*x.DeniedShare)
	}
	if !differs(asked{was: c.Was}, c.Now) {
		return fmt.Sprintf("%s was allowed%s, and would be, but %s", what, by(c.Was), c.Was.Way.becomes(c.Now.Way))
	}
	where := ""
	if way := c.Now.Way; way.Destination != "" {
		where = " to " + way.to()
		if way.Route != "" {
			where += " " + way.rule()
		}
		if way.Gateway != "" {
			where += " " + way.through()
		}
	}
	return fmt.Sprintf("%s was allowed with verdict %s%s, and would be with verdict %s%s%s", what, c.Was.Verdict, by(c.Was), c.Now.Verdict, by(c.Now), where)
}

func by(o Treatment) string {
	if o.Rule == "" {
		return ""
	}
	return " by " + o.Rule
}

// lacks are what an event does not say of its flow.
func lacks(q asked, e *flow.Event) (out []string) {
	switch {
	case q.query:
		out = append(out, "which port it is for, as no connection was made")
	case q.method != "":
		out = append(out, "the headers and the query of the request: rules that look at them were asked without")
	case e.Name == "":
		out = append(out, "a name: the address alone was asked about")
	}
	if len(e.Names) > 1 {
		out = append(out, "which name was meant: it may be any of "+strings.Join(e.Names, ", "))
	}
	return out
}
