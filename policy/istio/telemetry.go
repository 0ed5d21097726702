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
			return telemetry.Translate(telemetry.TelemetryObject{Checker: d.Checker, Ref: d.ref, Spec: d.spec(), V: d.v, Providers: providers})
		})
		if t != nil {
			cfg.Telemetries = append(cfg.Telemetries, t)
		}
		for _, x := range d.v.Tracing {
			for _, p := range x.Providers {
				collector(&cfg.Mesh.Telemetry, mesh, p.Name)
			}
		}
	}
}
