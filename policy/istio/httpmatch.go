// SPDX-License-Identifier: Apache-2.0

package istio

import (
	networking "istio.io/api/networking/v1alpha3"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/requests"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

func (o *object) httpMatch(at *strictyaml.Node, m *networking.HTTPMatchRequest) *policy.HTTPMatch {
	out := &policy.HTTPMatch{
		Name:          m.Name,
		URI:           requests.StringMatch(&o.Checker, at.At("uri"), "uri", m.Uri),
		IgnoreURICase: m.IgnoreUriCase,
		Scheme:        requests.StringMatch(&o.Checker, at.At("scheme"), "scheme", m.Scheme),
		Method:        requests.StringMatch(&o.Checker, at.At("method"), "method", m.Method),
		Authority:     requests.StringMatch(&o.Checker, at.At("authority"), "authority", m.Authority),
		Headers:       requests.HeaderMatches(&o.Checker, at.At("headers"), "headers", m.Headers),
		QueryParams:   requests.StringMatches(&o.Checker, at.At("queryParams"), "queryParams", m.QueryParams),
		Gateways:      o.gatewayNames(at.At("gateways"), m.Gateways),
	}
	out.WithoutHeaders = requests.HeaderMatches(&o.Checker, at.At("withoutHeaders"), "withoutHeaders", m.WithoutHeaders)
	if m.Port != 0 {
		out.Port = o.Port(at.At("port"), "match port", m.Port)
	}
	out.SourceLabels, out.SourceNamespace, out.StatPrefix = m.SourceLabels, m.SourceNamespace, m.StatPrefix
	o.source(at, m.SourceLabels, m.SourceNamespace)
	return out
}
