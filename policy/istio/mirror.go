// SPDX-License-Identifier: Apache-2.0

package istio

import (
	networking "istio.io/api/networking/v1alpha3"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// mirrors reads where copies of the requests go. A share of 0 is written to
// switch a mirror off.
func (l *loader) mirrors(d decoded[networking.VirtualService], at *strictyaml.Node, r *networking.HTTPRoute) []policy.Mirror {
	if r.Mirror != nil && len(r.Mirrors) > 0 {
		d.Errorf(at.KeyOf("mirrors"), "HTTP route cannot contain both mirror and mirrors")
	}
	var out []policy.Mirror
	percent := d.mirrorPercent(at, r)
	if r.Mirror != nil {
		mn := at.At("mirror")
		out = append(out, policy.Mirror{Destination: l.destination(d, mn, r.Mirror), Percent: percent})
	}
	for i, m := range r.Mirrors {
		mn := at.At("mirrors", i)
		if m.Destination == nil {
			d.Errorf(mn, "destination is required for mirrors")
			continue
		}
		mirror := policy.Mirror{Destination: l.destination(d, mn.At("destination"), m.Destination), Percent: 100}
		if p := m.Percentage; p != nil {
			mirror.Percent = d.MirrorShare(mn.At("percentage", "value"), "mirror percentage", p.Value)
		}
		out = append(out, mirror)
	}
	return out
}

// mirrorPercent is the share that `mirror` gets.
func (o *object) mirrorPercent(at *strictyaml.Node, r *networking.HTTPRoute) float64 {
	percent := 100.0
	//lint:ignore SA1019 deprecated, but Istio acts on it
	if p := r.MirrorPercent; p != nil {
		o.Warnf(at.KeyOf("mirrorPercent"), `using deprecated setting "mirrorPercent", use "mirrorPercentage" instead`)
		percent = o.MirrorShare(at.At("mirrorPercent"), "mirror_percent", float64(p.Value))
	}
	if p := r.MirrorPercentage; p != nil {
		percent = o.MirrorShare(at.At("mirrorPercentage", "value"), "mirror_percentage", p.Value)
	}
	return percent
}

// sets says whether r says anything of mirrors or of their share.
func setsMirrors(r *networking.HTTPRoute) (mirrors, share bool) {
	//lint:ignore SA1019 deprecated, but Istio acts on it
	share = r.MirrorPercent != nil || r.MirrorPercentage != nil
	return r.Mirror != nil || len(r.Mirrors) > 0, share
}
