// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"testing"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
)

// TestDashboardSchema: the dashboard is one by Grafana's own schema, with its panels and
// queries: no field is unknown, of another type, or missing.
func TestDashboardSchema(t *testing.T) {
	known := cog.NewRuntime()
	known.RegisterPanelcfgVariant(stat.VariantConfig())
	known.RegisterPanelcfgVariant(timeseries.VariantConfig())
	known.RegisterDataqueryVariant(prometheus.VariantConfig())
	text, err := os.ReadFile(top + "/deploy/grafana/egressd.json")
	if err != nil {
		t.Fatal(err)
	}
	judge := func(text []byte) error {
		var d dashboard.Dashboard
		err := d.UnmarshalJSONStrict(text)
		if errs, ok := err.(cog.BuildErrors); err != nil && (!ok || len(errs) > 0) {
			return err
		}
		return d.Validate()
	}
	if err := judge(text); err != nil {
		t.Error(err)
	}
	for _, field := range []string{"showLegend", "graphMode", "legendFormat", "graphTooltip"} {
		wrong := bytes.Replace(text, []byte(`"`+field+`"`), []byte(`"`+field+`s"`), 1)
		if err := judge(wrong); err == nil || bytes.Equal(wrong, text) {
			t.Errorf("a mistake in %s is none", field)
		}
	}
}
