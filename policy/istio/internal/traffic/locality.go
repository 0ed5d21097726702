// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"maps"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// topology are the labels of failoverPriority that stand for localities.
var topology = []string{"topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"}

// locality reads the localityLbSetting in the mapping at; nil stays nil.
func (o reader) locality(at *strictyaml.Node, lb *networking.LocalityLoadBalancerSetting, outlier bool) *policy.Locality {
	if lb == nil {
		return nil
	}
	at = at.At("localityLbSetting")
	out := &policy.Locality{Disabled: lb.Enabled != nil && !lb.Enabled.Value}
	if len(lb.Distribute) > 0 && len(lb.Failover) > 0 {
		o.Errorf(at, "can not simultaneously specify 'distribute' and 'failover'")
	}
	for i, label := range lb.FailoverPriority {
		name, value, _ := strings.Cut(label, "=")
		o.Labels(at.At("failoverPriority", i), map[string]string{name: value})
		if len(lb.Failover) > 0 && slices.Contains(topology, label) {
			o.Errorf(at.At("failoverPriority", i), "can not simultaneously set 'failover' and topology label '%s' in 'failover_priority'", label)
		}
	}
	from := localities{}
	for i, d := range lb.Distribute {
		dn := at.At("distribute", i)
		o.localityOverlap(dn.At("from"), d.From, from)
		out.Distribute = append(out.Distribute, policy.Distribute{From: d.From, To: o.distribute(dn.At("to"), d.To)})
	}
	out.FailoverPriority = lb.FailoverPriority
	if len(lb.Failover)+len(lb.FailoverPriority) > 0 && !outlier {
		o.Warnf(at, "outlier detection policy must be provided for failover")
	}
	for i, f := range lb.Failover {
		fn := at.At("failover", i)
		if f.From == f.To {
			o.Errorf(fn, "locality lb failover settings must specify different regions")
		}
		if strings.Contains(f.From+f.To, "/") {
			o.Errorf(fn, "locality lb failover only specify region")
		}
		if strings.Contains(f.From+f.To, "*") {
			o.Errorf(fn, "locality lb failover region should not contain '*' wildcard")
		}
		out.Failover = append(out.Failover, policy.Failover{From: f.From, To: f.To})
	}
	return out
}

func (o reader) distribute(at *strictyaml.Node, to map[string]uint32) (out []policy.LocalityWeight) {
	total, seen, x := uint64(0), localities{}, strictyaml.EntriesOf(at)
	for _, where := range slices.Sorted(maps.Keys(to)) {
		weight := to[where]
		if weight < 1 || weight > 100 {
			o.Errorf(x.At(where), "locality weight must be in range [1, 100]")
		}
		total += uint64(weight)
		o.localityOverlap(x.KeyOf(where), where, seen)
		out = append(out, policy.LocalityWeight{Locality: where, Percent: weight})
	}
	if total != 100 {
		o.Errorf(at, "total locality weight %d != 100", total)
	}
	return out
}

// localities are those of a list, each with those that it is part of: true
// for one that is listed itself.
type localities map[string]bool

// localityOverlap checks "region/zone/subzone" or a beginning of it, with a
// '*' at the end for everything below, and that the list has no other that
// means the same place.
func (o reader) localityOverlap(at *strictyaml.Node, locality string, seen localities) {
	if n := strings.Count(locality, "*"); n > 1 || n == 1 && !strings.HasSuffix(locality, "*") {
		o.Errorf(at, "locality %s wildcard '*' number can not exceed 1 and must be in the end", locality)
		return
	}
	parts := strings.SplitN(locality, "/", 3)
	if slices.Contains(parts, "") {
		o.Errorf(at, "locality %s must not contain empty region/zone/subzone info", locality)
		return
	}
	if parts[len(parts)-1] == "*" {
		parts = parts[:len(parts)-1]
	}
	where := strings.Join(parts, "/")
	_, below := seen[where] // it, or something in it
	overlap := below || seen[""]
	for i := range parts {
		wide := strings.Join(parts[:i], "/")
		overlap = overlap || seen[wide]
		if _, ok := seen[wide]; !ok {
			seen[wide] = false
		}
	}
	seen[where] = true
	if overlap {
		o.Errorf(at, "locality %s overlap with previous specified ones", locality)
	}
}

// zoneAware checks a zoneAwareLbSetting, which has no effect.
func (o reader) zoneAware(at *strictyaml.Node, z *networking.ZoneAwareLoadBalancerSetting) {
	if z == nil {
		return
	}
	o.Inert(at.KeyOf("zoneAwareLbSetting"), "zoneAwareLbSetting")
	at = at.At("zoneAwareLbSetting")
	if c := z.MinClusterSize; c != nil && c.Value == 0 {
		o.Errorf(at.At("minClusterSize"), "minClusterSize must be 1 or more")
	}
	for i, label := range z.FailoverPriority {
		switch label {
		case "topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone":
			o.Errorf(at.At("failoverPriority", i), "'failover_priority' for zone aware lb must not use topology label '%s'", label)
		}
	}
	for i, f := range z.Failover {
		fn := at.At("failover", i)
		if f.From == f.To {
			o.Errorf(fn, "zone aware lb failover settings must specify different regions")
		}
		if strings.Contains(f.From+f.To, "/") {
			o.Errorf(fn, "zone aware lb failover only specifies region")
		}
		if strings.Contains(f.From+f.To, "*") {
			o.Errorf(fn, "zone aware lb failover region should not contain '*' wildcard")
		}
	}
}
