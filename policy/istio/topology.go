// SPDX-License-Identifier: Apache-2.0

package istio

import (
	meshapi "istio.io/api/mesh/v1alpha1"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/code"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// proxyConfigAnnotation has a ProxyConfig as text. In Istio it is one of the gateway's
// pods; here, where the node is the gateway, one of the Gateway.
const proxyConfigAnnotation = "proxy.istio.io/config"

// topology reads where gateways stand; at is the gatewayTopology.
func (o *object) topology(at *strictyaml.Node, t *meshapi.Topology) policy.Topology {
	if t == nil {
		return policy.Topology{}
	}
	if n := t.NumTrustedProxies; n > maxTrustedProxies {
		o.SayCode(code.FormGateway, strictyaml.Error, at.At("numTrustedProxies"), "numTrustedProxies: %d are more than %d", n, maxTrustedProxies)
	}
	switch t.ForwardClientCertDetails {
	case meshapi.ForwardClientCertDetails_UNDEFINED, meshapi.ForwardClientCertDetails_SANITIZE_SET:
	default:
		o.Inert(at.KeyOf("forwardClientCertDetails"), "forwardClientCertDetails "+t.ForwardClientCertDetails.String())
	}
	return policy.Topology{TrustedProxies: int(t.NumTrustedProxies), ProxyProtocol: t.ProxyProtocol != nil}
}

// maxTrustedProxies is more than anybody has.
const maxTrustedProxies = 100

// ownTopology reads where the Gateway says that it stands; nil: nothing.
func (o *object) ownTopology() *policy.Topology {
	at := o.root.At("metadata", "annotations").Get(proxyConfigAnnotation)
	if at == nil || at.Kind != strictyaml.Scalar {
		return nil
	}
	scratch := &strictyaml.Reporter{Report: &strictyaml.Report{}, File: o.File, Object: o.Object}
	docs, _ := strictyaml.Parse(strictyaml.Chunk{Text: []byte(at.Text)}, scratch)
	if scratch.Report.Errors > 0 || len(docs) > 1 {
		o.SayCode(code.FormGateway, strictyaml.Error, at, "the annotation %s is not one document of YAML", proxyConfigAnnotation)
		return nil
	}
	if len(docs) == 0 {
		return nil
	}
	n := docs[0].Get("gatewayTopology")
	if n == nil {
		return nil
	}
	n.Walk(map[*strictyaml.Node]bool{}, func(line, col *int) { *line, *col = at.Line, at.Col })
	v := &meshapi.Topology{}
	if !strictyaml.DecodeProtoJSON(n, v, "gatewayTopology", &o.Reporter) {
		return nil
	}
	out := o.topology(n, v)
	return &out
}
