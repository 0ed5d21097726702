// SPDX-License-Identifier: Apache-2.0

package analyze

import (
	"maps"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// tlsRules finds the DestinationRules for a host that have settings of TLS.
type tlsRules struct {
	exact map[hostname.Pattern][]*policy.DestinationRule
	wild  *hostname.Index[[]*policy.DestinationRule]
}

func newTLSRules(rules []*policy.DestinationRule) *tlsRules {
	out := &tlsRules{exact: map[hostname.Pattern][]*policy.DestinationRule{}}
	wild := map[hostname.Pattern][]*policy.DestinationRule{}
	for _, r := range rules {
		if len(originating([]*policy.DestinationRule{r})) == 0 {
			continue
		}
		if r.Host.IsWildcard() {
			wild[r.Host] = append(wild[r.Host], r)
		} else {
			out.exact[r.Host] = append(out.exact[r.Host], r)
		}
	}
	out.wild = hostname.NewIndex(maps.All(wild))
	return out
}

// to are the settings that may count for a destination. Which do depends on who asks.
func (r *tlsRules) to(d policy.Destination) (out []*policy.ClientTLS) {
	add := func(list []*policy.DestinationRule) {
		for _, rule := range list {
			out = append(out, tlsOf(rule.Traffic, d.Port)...)
			for i := range rule.Subsets {
				if rule.Subsets[i].Name == d.Subset {
					out = append(out, tlsOf(rule.Subsets[i].Traffic, d.Port)...)
				}
			}
		}
	}
	add(r.exact[hostname.Pattern(d.Host)])
	walk := r.wild.Walk(d.Host)
	for rules, ok := walk.Next(); ok; rules, ok = walk.Next() {
		add(rules)
	}
	return out
}

// tlsOf are the settings for a port; 0: for any.
func tlsOf(t *policy.TrafficPolicy, port uint16) (out []*policy.ClientTLS) {
	add := func(c *policy.ClientTLS) {
		if c != nil && c.Mode != policy.TLSDisable {
			out = append(out, c)
		}
	}
	if t == nil {
		return nil
	}
	own := t.Ports[port]
	if own != nil && own.TLS != nil {
		add(own.TLS) // in the place of the others
		return out
	}
	add(t.TLS)
	if port == 0 {
		for _, p := range t.Ports {
			add(p.TLS)
		}
	}
	return out
}

// credentials warns about rules that add values from Secrets or files to requests, and
// lead to where these don't go out: by TLS that is originated and verified alone.
func (a *analysis) credentials() {
	var rules *tlsRules
	for _, vs := range a.cfg.VirtualServices {
		for _, r := range vs.HTTP {
			if len(r.Credentials) == 0 {
				continue
			}
			if rules == nil {
				rules = newTLSRules(a.cfg.DestinationRules)
			}
			for _, w := range r.Route {
				if !a.isGateway(vs, w.Destination.Host) {
					a.withheld(r, w, rules.to(w.Destination))
				}
			}
		}
	}
}

func (a *analysis) withheld(r *policy.HTTPRule, w *policy.WeightedDestination, by []*policy.ClientTLS) {
	at, known := a.Written[w]
	if !known {
		s, n := a.rule(r.Ref)
		at = strictyaml.Passage{Reporter: &s.Reporter, Node: n}
	}
	host, header := w.Destination.Host, r.Credentials[0].Name
	if len(by) == 0 {
		at.Warnf(at.Node, "no DestinationRule originates TLS to %s, and header %s of egressd.dev/request-header-from goes out by such TLS alone: requests are denied (credential-unavailable); write a DestinationRule with tls mode SIMPLE for it", host, header)
		return
	}
	for _, t := range by {
		if !t.InsecureSkipVerify {
			return
		}
	}
	at.Warnf(at.Node, "TLS to %s is not verified (insecureSkipVerify), and header %s of egressd.dev/request-header-from goes to nobody who is not known: requests are denied (credential-unavailable); name the CA in place of insecureSkipVerify", host, header)
}
