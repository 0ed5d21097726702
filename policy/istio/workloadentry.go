// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/check"
	"github.com/egressd/egressd/policy/istio/internal/code"
	"github.com/egressd/egressd/policy/istio/internal/model"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

func translateWorkloadEntries(l *loader, _ *policy.Config) {
	for _, d := range l.workloadEntries {
		once(l, d.object, nil, func() any { l.workloadEntry(d); return nil })
	}
}

// workloadEntry checks a WorkloadEntry by itself. Whether its ports and its
// kind of address are good for a ServiceEntry is known where one selects it.
func (l *loader) workloadEntry(d decoded[networking.WorkloadEntry]) {
	d.workloadAddress(d.spec("address"), d.v)
	for _, name := range slices.Sorted(maps.Keys(d.v.Ports)) {
		at := d.spec("ports").KeyOf(name)
		if !check.IsPortName(name) || len(name) > maxEndpointPort {
			d.Errorf(at, "invalid port name: %s", name)
		}
		d.Port(d.spec("ports", name), "port "+name, d.v.Ports[name])
	}
	d.Labels(d.spec("labels"), d.v.Labels)
	if n := len(d.v.ServiceAccount); n > maxAccount {
		d.Errorf(d.spec("serviceAccount"), "serviceAccount: it has %d characters, more than %d", n, maxAccount)
	}
}

func (o *object) workloadAddress(at *strictyaml.Node, we *networking.WorkloadEntry) {
	if we.Address == "" {
		if we.Network == "" {
			o.Errorf(at, "address is required")
			return
		}
		o.Warnf(at, "address is unset with network %q: the entry leads nowhere here", we.Network)
		return
	}
	if path, ok := strings.CutPrefix(we.Address, model.UnixPrefix); ok {
		if wrong := unixAddress(path); wrong != "" {
			o.SayCode(code.FormServiceEntry, strictyaml.Error, at, "%s", wrong)
		}
		if o.spec().Has("ports") {
			o.Errorf(o.spec().KeyOf("ports"), "unix endpoint %s must not include ports", we.Address)
		}
		return
	}
	a, err := netip.ParseAddr(we.Address)
	switch {
	case err == nil && (a.Zone() != "" || a.Is4In6()):
		o.Errorf(at, "endpoint address %q is not a plain IPv4 or IPv6 address", we.Address)
	case err == nil:
	default:
		if _, err := check.FQDN(we.Address); err != nil {
			o.Errorf(at, "endpoint address %q is not a valid FQDN or an IP address", we.Address)
		}
	}
}
