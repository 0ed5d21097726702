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
		return routed(l.DecideHTTP(r), r), nil
	case q.kind == "http":
		r := q.request()
		r.Scheme = "https"
		return routed(l.DecideHTTPS(*q.sni, r), r), nil
	case q.sni != nil:
		return terminated(l.DecideTLS(nil, *q.sni, q.draw)), nil
	}
	d, u := l.DecideTCP(nil, q.draw)
	if d.Verdict == policy.Deny {
		return denial(d), nil
	}
	return join("proxy", to(u), by(d.Rule, "")) + more(d, u), nil
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
