// SPDX-License-Identifier: Apache-2.0

// Package model has what the translators and the analysis both know of the
// parts of a Config, and of the objects that they come from.
package model

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/egressd/egressd/policy"
)

const (
	// Mesh among the Gateways of a VirtualService stands for the workloads.
	Mesh = "mesh"
	// HTTPRoute is the kind of the Gateway API whose objects become
	// VirtualServices.
	HTTPRoute = "HTTPRoute"
	// NetworkingGroup is Istio's API group of what is about traffic.
	NetworkingGroup = "networking.istio.io"
	// RetriableCodes is the condition of a retry that has codes.
	RetriableCodes = "retriable-status-codes"
	// MaxMatches bounds the matches that delegation makes in all, where each
	// match of a root rule meets each match of its delegate, and those of
	// HTTPRoutes, whose matches are written once for each set of hosts.
	MaxMatches = 100_000
	// UnixPrefix is what the address of a socket begins with.
	UnixPrefix = "unix://"
)

// FromGatewayAPI says whether the VirtualServices of a kind were made of objects of
// the Gateway API.
func FromGatewayAPI(kind string) bool { return strings.HasSuffix(kind, "Route") }

// MatchesAll says whether no request passes the rule by.
func MatchesAll(r *policy.HTTPRule, vs *policy.VirtualService) bool {
	if len(r.Matches) == 0 {
		return true
	}
	return slices.ContainsFunc(r.Matches, func(m *policy.HTTPMatch) bool {
		uri := m.URI == nil || m.URI.Kind == policy.MatchPrefix && (m.URI.Value == "/" || m.URI.Value == "")
		return uri && m.Scheme == nil && m.Method == nil && m.Authority == nil && m.Port == 0 &&
			len(m.SourceLabels) == 0 && m.SourceNamespace == "" &&
			len(m.Headers)+len(m.WithoutHeaders)+len(m.QueryParams) == 0 &&
			!slices.ContainsFunc(vs.Gateways, func(g string) bool {
				return len(m.Gateways) > 0 && !slices.Contains(m.Gateways, g)
			})
	})
}

// AsksHTTP says whether an operation asks for what only plain HTTP shows.
func AsksHTTP(o *policy.AuthOperation) bool {
	return len(o.Methods)+len(o.NotMethods)+len(o.Paths)+len(o.NotPaths) > 0
}

// KeyOf is a text that is the same for the same values: map keys are sorted.
func KeyOf(v any) string {
	b, err := json.Marshal(v)
	if err != nil { // cannot happen: there are only strings and numbers in it
		return fmt.Sprintf("%p", v)
	}
	return string(b)
}

// KubernetesName is the absolute name of a Kubernetes Service.
func KubernetesName(name, namespace string) string {
	return fmt.Sprintf("%s.%s.svc.cluster.local", name, namespace)
}
