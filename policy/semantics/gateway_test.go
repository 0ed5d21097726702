// SPDX-License-Identifier: Apache-2.0

package semantics

import (
	"fmt"
	"slices"
	"strings"

	"github.com/egressd/egressd/policy"
)

// gateway is what a listener of this node's gateway does with a connection or
// a request.
func (a *asker) gateway(q *question) (string, error) {
	i := slices.IndexFunc(a.s.Listeners(), func(l *policy.GatewayListener) bool {
		return l.Port == q.port && slices.Contains(strings.Split(l.Name, ","), q.gateway)
	})
	if i < 0 {
		return "no listener", nil
	}
	l := a.s.Listeners()[i]
	switch {
	case q.kind == "http" && q.sni == nil:
		r := q.request()
		r.Visitor = q.visitor()
		return routed(l.DecideHTTP(r), r), nil
	case q.kind == "http":
		r := q.request()
		r.Scheme = "https"
		if r.Visitor = q.visitor(); r.Visitor != nil {
			r.Visitor.TLS, r.Visitor.SNI = true, *q.sni
		}
		return routed(l.DecideHTTPS(*q.sni, r), r), nil
	case q.sni != nil:
		return terminated(l.DecideTLS(q.visitor(), *q.sni, q.draw)), nil
	}
	d, u := l.DecideTCP(q.visitor(), q.draw)
	if d.Verdict == policy.Deny {
		return denial(d), nil
	}
	return join("proxy", to(u), by(d.Rule, "")) + more(d, u), nil
}

// visitor is who comes from outside; nil: nothing is known.
func (q *question) visitor() *policy.Visitor {
	if !q.from.IsValid() {
		return nil
	}
	return &policy.Visitor{Src: q.from, Remote: q.from}
}

func terminated(t policy.GatewayTLS) string {
	switch s := t.Server; {
	case t.Verdict == policy.Deny:
		return denial(t.Decision)
	case s != nil && t.Upstream == nil:
		return fmt.Sprintf("terminate at server %s by %s", s.Name, object(&s.Ref))
	case s != nil:
		return join("terminate at server", s.Name+",", "proxy", to(t.Upstream), by(t.Rule, "")) + more(t.Decision, t.Upstream)
	}
	return join("proxy", to(t.Upstream), by(t.Rule, "")) + more(t.Decision, t.Upstream)
}
