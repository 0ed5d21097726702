// SPDX-License-Identifier: Apache-2.0

package istio

import (
	meshapi "istio.io/api/mesh/v1alpha1"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/telemetry"
)

// translateTelemetries translates Telemetry objects. They name providers of the
// MeshConfig, which has been translated.
func translateTelemetries(l *loader, cfg *policy.Config) {
	if len(l.telemetries) == 0 {
		return
	}
	var mesh *meshapi.MeshConfig
	for i := range l.meshes {
		if m := &l.meshes[i]; m.ref == cfg.Mesh.Ref {
			mesh = m.v
		}
	}
	providers := telemetry.NewProviders(mesh)
	for _, d := range oldest(l.telemetries) {
		t := once(l, d.object, nil, func() *policy.Telemetry {
			l.leans = true // on the MeshConfig
			return telemetry.Translate(telemetry.Input{Checker: d.Checker, Ref: d.ref, Spec: d.spec(), V: d.v, Providers: providers})
		})
		if t != nil {
			cfg.Telemetries = append(cfg.Telemetries, t)
		}
	}
}
