// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"testing"

	"github.com/egressd/egressd/internal/hostname"
)

// TestGatewaySelectors: on a gateway a VirtualService of which no rule is for
// it and the port does not apply, and the next one does; labels and namespace
// are those of the gateway, and are not asked for where a match names it.
func TestGatewaySelectors(t *testing.T) {
	const host, wild = hostname.Pattern("x.example.com"), hostname.Pattern("*.example.com")
	const gw = "default/gw"
	here, there := map[string]string{"istio": "ingressgateway"}, map[string]string{"app": "shop"}
	alone := func(m ...*HTTPMatch) []*VirtualService {
		return []*VirtualService{vs("v", nil, names(host), answer("v", m...))}
	}
	// behind is what a wildcard's rules say.
	behind := func(m ...*HTTPMatch) []*VirtualService {
		return append(alone(m...), vs("w", nil, names(wild), answer("wild")))
	}
	for _, tt := range []struct {
		name  string
		rules []*VirtualService
		want  string
	}{
		{"for all", behind(), "v"},
		{"for this gateway", behind(&HTTPMatch{Gateways: []string{gw}}), "v"},
		{"for another gateway: the wildcard", behind(&HTTPMatch{Gateways: []string{"default/other"}}), "wild"},
		{"for workloads: the wildcard", behind(&HTTPMatch{Gateways: []string{"mesh"}}), "wild"},
		{"for this port", behind(&HTTPMatch{Port: 80}), "v"},
		{"for another port: the wildcard", behind(&HTTPMatch{Port: 8080}), "wild"},
		{"for the gateway's labels", behind(&HTTPMatch{SourceLabels: here}), "v"},
		{"for other labels: the wildcard", behind(&HTTPMatch{SourceLabels: there}), "wild"},
		{"labels are not asked for where the gateway is named", behind(&HTTPMatch{SourceLabels: there, Gateways: []string{gw}}), "v"},
		{"for the gateway's namespace", behind(&HTTPMatch{SourceNamespace: "default"}), "v"},
		{"for another namespace: the wildcard", behind(&HTTPMatch{SourceNamespace: "shop"}), "wild"},
		{"one match of several is for it", behind(&HTTPMatch{Port: 8080}, &HTTPMatch{Port: 80}), "v"},
		{"a rule that does not match is one", behind(uri(MatchExact, "/x")), string(ReasonNoRoute)},
		{"for other labels: the next of the host", append(alone(&HTTPMatch{SourceLabels: there}), vs("w", nil, names(host), answer("next"))), "next"},
		{"for other labels: nothing", alone(&HTTPMatch{SourceLabels: there}), string(ReasonNoRoute)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := served(gatewayServer("http", 80, ProtocolHTTP, nil, "*.example.com"))
			for _, v := range tt.rules {
				c.bind(v)
			}
			s := mustCompile(t, c)
			r := get(string(host), "/")
			r.Port = 80
			d := s.Listeners()[0].DecideHTTP(r)
			got := string(d.Reason)
			if d.Action != nil {
				got = d.Action.Rule.Name
			}
			if got != tt.want {
				t.Errorf("%s, want %s in\n%s", got, tt.want, s.Text())
			}
		})
	}
}
