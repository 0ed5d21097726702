// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	networking "istio.io/api/networking/v1alpha3"
	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"

	"github.com/egressd/egressd/policy/istio/internal/model"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// kindOf returns what is done with a kind of the Istio groups, or with one of
// the Kubernetes kinds that we read.
func kindOf(group, name string) (kind, bool) {
	all := []string{"v1", "v1beta1", "v1alpha3"}
	switch group + "/" + name {
	case model.NetworkingGroup + "/ServiceEntry":
		return kind{group, all, decodeServiceEntry}, true
	case model.NetworkingGroup + "/VirtualService":
		return kind{group, all, spec(func(l *loader) *[]decoded[networking.VirtualService] { return &l.virtuals })}, true
	case model.NetworkingGroup + "/Gateway":
		return kind{group, all, spec(func(l *loader) *[]decoded[networking.Gateway] { return &l.gateways })}, true
	case model.NetworkingGroup + "/DestinationRule":
		return kind{group, all, spec(func(l *loader) *[]decoded[networking.DestinationRule] { return &l.rules })}, true
	case model.NetworkingGroup + "/WorkloadEntry":
		return kind{group, all, spec(func(l *loader) *[]decoded[networking.WorkloadEntry] { return &l.workloadEntries })}, true
	case "/Service":
		return kind{group, []string{"v1"}, whole(func(l *loader) *[]decoded[core.Service] { return &l.services })}, true
	case "/Secret":
		return kind{group, []string{"v1"}, decodeSecret}, true
	case "/Endpoints":
		return kind{group, []string{"v1"}, whole(func(l *loader) *[]decoded[endpoints] { return &l.endpoints })}, true
	case "discovery.k8s.io/EndpointSlice":
		return kind{group, []string{"v1"}, whole(func(l *loader) *[]decoded[discovery.EndpointSlice] { return &l.slices })}, true
	}
	if k, ok := scopeKind(group, name); ok {
		return k, true
	}
	if k, ok := gatewayKind(group, name); ok {
		return k, true
	}
	if k, ok := clusterKind(group, name); ok {
		return k, true
	}
	return inertKind(group, name)
}

// inertKind knows the Istio kinds that are not acted on.
func inertKind(group, name string) (kind, bool) {
	warn := func(why string) func(*object, *draft) {
		return func(o *object, _ *draft) {
			o.Warnf(o.root.KeyOf("kind"), "%s is not acted on yet: %s", o.kind, why)
		}
	}
	switch group + "/" + name {
	case securityGroup + "/RequestAuthentication":
		return kind{group, nil, func(o *object, _ *draft) {
			o.Unsupported(o.root.KeyOf("kind"), "RequestAuthentication (egressd does not look into JSON web tokens)")
		}}, true
	case model.NetworkingGroup + "/WorkloadGroup":
		return kind{group, nil, warn("it is a template for WorkloadEntries that register themselves, which nothing does here")}, true
	case model.NetworkingGroup + "/EnvoyFilter":
		return kind{group, nil, warn("it configures Envoy, which does not run here")}, true
	case model.NetworkingGroup + "/ProxyConfig":
		return kind{group, nil, warn("it configures Istio's proxies")}, true
	case securityGroup + "/PeerAuthentication":
		return kind{group, nil, warn("it speaks about the mutual TLS of sidecars")}, true
	}
	return kind{}, false
}

func istioKinds(group string) []string {
	switch group {
	case model.NetworkingGroup:
		return []string{"ServiceEntry", "VirtualService", "Gateway", "DestinationRule", "Sidecar",
			"WorkloadEntry", "WorkloadGroup", "EnvoyFilter", "ProxyConfig"}
	case securityGroup:
		return []string{"AuthorizationPolicy", "RequestAuthentication", "PeerAuthentication"}
	case egressdGroup:
		return []string{"Workload", "MeshConfig"}
	}
	return nil
}

// findKind finds what to do with a document, and reports when nothing is done.
func findKind(n *strictyaml.Node, apiVersion, name string, p *strictyaml.Reporter) (kind, bool) {
	group, version, found := strings.Cut(apiVersion, "/")
	if !found {
		group, version = "", apiVersion
	}
	k, ok := kindOf(group, name)
	if ok && isRead(group, name, n) {
		if k.versions != nil && !slices.Contains(k.versions, version) {
			p.Errorf(n.At("apiVersion"), "apiVersion %s: version %q is not known; %s has %s",
				apiVersion, version, name, strings.Join(k.versions, ", "))
			return k, false
		}
		return k, true
	}
	if known := istioKinds(group); known != nil {
		p.Errorf(n.At("kind"), "kind %s is not known in %s%s", name, group, strictyaml.DidYouMean(name, known))
		return k, false
	}
	// A kind of ours under a group that nobody uses for it would be lost.
	for _, g := range []string{model.NetworkingGroup, securityGroup} {
		if slices.Contains(istioKinds(g), name) && !strings.Contains(group, ".k8s.io") {
			p.Errorf(n.At("apiVersion"), "apiVersion %s: kind %s belongs to %s/v1", apiVersion, name, g)
			return k, false
		}
	}
	if how := counterpart(group, name); how != "" {
		p.Warnf(n.At("kind"), "%s is not read: it opens nothing and closes nothing here. Write its counterpart: %s", name, how)
		return k, false
	}
	p.Say(Note, n, "kind %s of %s is not read by egressd, skipped", name, apiVersion)
	return k, false
}

// whole decodes a whole Kubernetes object for one of the loader's lists.
func whole[T any](into func(*loader) *[]decoded[T]) func(*object, *draft) {
	return func(o *object, d *draft) {
		v := new(T)
		if strictyaml.DecodeGo(o.root, v, "", &o.Reporter) {
			d.take = appendTo(into, o, v)
		}
	}
}

// spec decodes the spec of an object for one of the loader's lists.
func spec[T any, M interface {
	*T
	proto.Message
}](into func(*loader) *[]decoded[T]) func(*object, *draft) {
	return func(o *object, d *draft) {
		v := new(T)
		o.besideSpec(M(v))
		if strictyaml.DecodeProto(o.spec(), M(v), "spec", &o.Reporter) {
			d.take = appendTo(into, o, v)
		}
	}
}

func appendTo[T any](into func(*loader) *[]decoded[T], o *object, v *T) func(*loader) {
	return func(l *loader) {
		list := into(l)
		*list = append(*list, decoded[T]{o, v})
	}
}

// groupHint says which apiVersion a kind of Istio's has.
func groupHint(kind string) string {
	for _, group := range []string{model.NetworkingGroup, securityGroup} {
		if slices.Contains(istioKinds(group), kind) {
			return fmt.Sprintf("; kind %s has apiVersion: %s/v1", kind, group)
		}
	}
	return ""
}
