// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"maps"
	"net/netip"
	"path"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/check"
	"github.com/egressd/egressd/policy/istio/internal/code"
	"github.com/egressd/egressd/policy/istio/internal/model"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

const (
	// maxEndpointPort is how long the name of an endpoint's port may be, by
	// the schemas of ServiceEntry and WorkloadEntry.
	maxEndpointPort = 62
	maxAccount      = 253 // characters of a service account
	// localityLabel holds a locality with dots in place of the slashes, for
	// endpoints that say none (istio.io/api label istio-locality).
	localityLabel = "istio-locality"
)

// endpoints reads the endpoints that the entry lists.
func (e *entry) endpoints() {
	n := len(e.v.Endpoints)
	list := e.spec("endpoints")
	switch {
	case e.Unreadable(e.spec("resolution")): // NONE stands for it
	case n == 0 && e.spec().Has("endpoints") && e.out.Resolution == policy.ResolutionNone:
		e.Errorf(list, "no endpoints should be provided for resolution type none, not even an empty list")
	case n > 0 && e.out.Resolution == policy.ResolutionNone:
		e.Errorf(list, "no endpoints should be provided for resolution type none")
	case n > 0 && e.out.Resolution == policy.ResolutionDynamicDNS:
		e.Errorf(list, "no endpoints should be provided for resolution mode DYNAMIC_DNS")
	case n > 1 && e.out.Resolution == policy.ResolutionDNSRoundRobin:
		e.Errorf(list, "there must only be 0 or 1 endpoint for resolution mode DNS_ROUND_ROBIN, this service entry has %d", n)
	}
	for i, we := range e.v.Endpoints {
		at := list.At(i)
		if out, ok := e.endpoint(at, we); ok && e.endpointPorts(at, we) {
			e.out.Endpoints = append(e.out.Endpoints, out)
		}
		e.Labels(at.At("labels"), we.Labels)
	}
}

// endpoint reads one endpoint of the entry.
func (e *entry) endpoint(at *strictyaml.Node, we *networking.WorkloadEntry) (policy.Endpoint, bool) {
	out := describe(we, we.Labels)
	address := at.At("address")
	e.endpointDecoration(at, we)
	if socket, ok := strings.CutPrefix(we.Address, model.UnixPrefix); ok {
		out.Unix = socket
		return out, e.unixEndpoint(at, we, socket)
	}
	a, err := netip.ParseAddr(we.Address)
	switch {
	case err == nil && (a.Zone() != "" || a.Is4In6()):
		e.Errorf(address, "endpoint address %q is not a plain IPv4 or IPv6 address", we.Address)
		return out, false
	case err == nil:
		out.Addr = a
	case we.Address == "" && we.Network != "" && !e.isDNS():
		e.Warnf(address, "address is unset with network %q: the endpoint is not used", we.Network)
		return out, false
	case we.Address == "":
		e.Errorf(address, "address is required")
		return out, false
	case e.isDNS():
		if out.Host, err = check.FQDN(we.Address); err != nil {
			e.Errorf(address, "endpoint address %q is not a valid FQDN or an IP address", we.Address)
			return out, false
		}
	default:
		e.Errorf(address, "endpoint address %q is not a valid IP address%s", we.Address, check.EndpointHint(we.Address))
		return out, false
	}
	return out, true
}

// describe is what a WorkloadEntry says beside its address.
func describe(we *networking.WorkloadEntry, labels map[string]string) policy.Endpoint {
	out := policy.Endpoint{Weight: we.Weight, Labels: labels, Locality: we.Locality}
	if out.Locality == "" {
		out.Locality = strings.ReplaceAll(labels[localityLabel], ".", "/")
	}
	for name, number := range we.Ports {
		if out.Ports == nil {
			out.Ports = make(map[string]uint16, len(we.Ports))
		}
		out.Ports[name] = uint16(number) // bounds are checked where errors are said
	}
	return out
}

// endpointDecoration names what has no effect here: all that is reachable
// is reachable directly, and there is no mutual TLS with accounts.
func (e *entry) endpointDecoration(at *strictyaml.Node, we *networking.WorkloadEntry) {
	if we.Network != "" {
		e.Inert(at.At("network"), "endpoint network")
	}
	if len(we.ServiceAccount) > maxAccount {
		e.Errorf(at.At("serviceAccount"), "serviceAccount: it has %d characters, more than %d", len(we.ServiceAccount), maxAccount)
	}
	if we.ServiceAccount != "" {
		e.Inert(at.KeyOf("serviceAccount"), "endpoint serviceAccount")
	}
}

func (e *entry) endpointPorts(at *strictyaml.Node, we *networking.WorkloadEntry) bool {
	ok := true
	if len(we.Ports) == 0 {
		return ok
	}
	x := strictyaml.EntriesOf(at.At("ports"))
	for _, name := range slices.Sorted(maps.Keys(we.Ports)) {
		pn := x.At(name)
		if !e.names[name] {
			e.Errorf(pn, "endpoint port %q is not defined by the service entry", name)
			ok = false
		}
		if len(name) > maxEndpointPort {
			e.Errorf(x.KeyOf(name), "the name of an endpoint's port has at most %d characters", maxEndpointPort)
		}
		ok = e.Port(pn, "endpoint port "+name, we.Ports[name]) != 0 && ok
	}
	return ok
}

func (e *entry) unixEndpoint(at *strictyaml.Node, we *networking.WorkloadEntry, socket string) bool {
	address := at.At("address")
	if err := unixAddress(socket); err != "" {
		e.SayCode(code.FormServiceEntry, strictyaml.Error, address, "%s", err)
		return false
	}
	switch {
	case e.out.Resolution != policy.ResolutionStatic:
		e.Errorf(address, "unix endpoint %s needs resolution STATIC", we.Address)
	case at.Has("ports"):
		e.Errorf(at.At("ports"), "unix endpoint %s must not include ports", we.Address)
	case len(e.v.Ports) != 1:
		e.Errorf(address, "exactly 1 service port required for unix endpoints")
	default:
		return true
	}
	return false
}

// unixAddress says what is wrong with the path of a socket, or "".
func unixAddress(socket string) string {
	switch {
	case socket == "":
		return "unix address must not be empty"
	case socket[0] == '@': // a name in the abstract namespace
		return ""
	case !path.IsAbs(socket) || strings.HasSuffix(socket, "/"):
		return socket + " is not an absolute path to a file"
	}
	return ""
}
