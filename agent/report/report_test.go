// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/agent/selfprobe"
	"github.com/egressd/egressd/agent/workload"
	"github.com/egressd/egressd/dnsproxy"
	"github.com/egressd/egressd/forward"
	"github.com/egressd/egressd/forward/limits"
	"github.com/egressd/egressd/internal/certs"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/learned"
	"github.com/egressd/egressd/internal/probe"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/policy/load"
	"github.com/egressd/egressd/policy/source/kube"
)

// gathered has the metrics of a Source, as "name{label=value,...}".
func gathered(t *testing.T, s Source) map[string]float64 {
	t.Helper()
	families, err := Registry(s).Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			value := m.GetGauge().GetValue() + m.GetCounter().GetValue()
			out[fmt.Sprintf("%s{%s}", f.GetName(), strings.Join(labels, ","))] = value
		}
	}
	return out
}

// TestMetrics: they say what the Status says, and what is not there is not told.
func TestMetrics(t *testing.T) {
	status := Status{
		Ready:  true,
		Policy: Policy{Error: "bad"},
		Capture: workload.CaptureStatus{
			Cgroups: map[string]bool{"/a": true, "/b": false}, Held: true,
		},
		Kernel:    map[string]uint64{"deny/no-rule": 3},
		Maps:      map[string]loader.Fill{"egd_addrs": {Entries: 1, Max: 5}},
		Workloads: []WorkloadStatus{{Name: "w", Origins: loader.Fill{Entries: 2, Max: 7}}},
		Unsaved:   map[string]string{"x.json": "no space"},
		DNS:       map[string]uint64{"denied": 8},
		Learned:   learned.Size{Names: 9, ServerNames: 10}, LearnedMax: learned.Size{Openings: 11},
		Connections: forward.Stats{Memory: limits.Use{Used: 12, Max: 13}},
		Certificates: []certs.Kept{
			{From: "Secret a/b", Loaded: true, Expires: time.Unix(20, 0)}, {From: "Secret a/b", Loaded: true, Expires: time.Unix(19, 0)},
			{From: "file x", Loaded: true, Error: "broken"}, {From: "file x", Loaded: true},
		},
	}
	status.Workloads[0].Share.Redirected = loader.Fill{Entries: 14, Max: 15}
	s := Source{
		Status:  func() Status { return status },
		Events:  func() map[flow.CountKey]uint64 { return nil },
		Dropped: func() uint64 { return 4 },
		Closed:  func() map[string]uint64 { return map[string]uint64{"socket": 5} },
		Unbound: func() int64 { return 6 },
		Holding: func() (failures, repairs map[loader.FaultKind]uint64) { return nil, nil },
		Saved:   []string{"x.json", "y.json"},
		Upstreams: func() []dnsproxy.UpstreamStatus {
			return []dnsproxy.UpstreamStatus{{Server: "192.0.2.53:53", State: "down", Answered: 8}}
		},
	}
	got := gathered(t, s)
	for name, want := range map[string]float64{
		"egressd_ready{}": 1, "egressd_policy_rejected{}": 1, "egressd_capture_held{}": 1, "egressd_pins_lasting{}": 0,
		"egressd_capture_present{cgroup=/a}": 1, "egressd_capture_present{cgroup=/b}": 0,
		"egressd_kernel_flows_total{action=deny,reason=no-rule}": 3,
		"egressd_map_entries{map=egd_addrs}":                     1, "egressd_map_max_entries{map=egd_addrs}": 5,
		"egressd_state_unsaved{file=x.json}": 1, "egressd_state_unsaved{file=y.json}": 0,
		"egressd_followers_dropped_total{}": 4, "egressd_interface_closed_total{interface=socket}": 5, "egressd_cgroups_unbound{}": 6,
		"egressd_dns_total{event=denied}": 8,
		"egressd_learned{kind=names}":     9, "egressd_learned{kind=server_names}": 10, "egressd_learned_max{kind=openings}": 11,
		"egressd_forward_used{resource=memory}": 12, "egressd_forward_max{resource=memory}": 13,
		"egressd_workload_used{resource=redirected,workload=w}": 14, "egressd_workload_max{resource=redirected,workload=w}": 15,
		"egressd_certificate_expiry_timestamp_seconds{from=Secret a/b}": 19, "egressd_certificate_usable{from=Secret a/b}": 1, "egressd_certificate_usable{from=file x}": 0,
		"egressd_dns_server_up{server=192.0.2.53:53}":                              0,
		"egressd_dns_server_questions_total{result=answered,server=192.0.2.53:53}": 8,
	} {
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("%s: %v (%t), want %v", name, v, ok, want)
		}
	}
	for name := range got {
		if strings.HasPrefix(name, "egressd_probe") || strings.HasPrefix(name, "egressd_kubernetes") || strings.HasPrefix(name, "egressd_log_dropped") || strings.Contains(name, "side=ingress") {
			t.Errorf("%s of what is not there", name)
		}
	}
	status.Kubernetes = &kube.InformerStatus{Synced: true, LastEvent: time.UnixMilli(2500), Kinds: map[string]kube.KindStatus{"Pod": {Objects: 7, Errors: 8}}}
	status.Policy.Refused = []load.Refused{{Object: "Sidecar n/a"}, {Object: "Sidecar n/b"}}
	status.Probe = &selfprobe.ProbeStatus{ProberStatus: probe.ProberStatus{Captured: true}}
	status.Probe.Paths = []probe.PathStatus{{Path: probe.DNSUDP, Family: probe.IPv6, OK: true, LastSuccess: time.UnixMilli(1500)}}
	s.LogDropped = func() uint64 { return 9 }
	got = gathered(t, s)
	for name, want := range map[string]float64{
		"egressd_kubernetes_synced{}": 1, "egressd_kubernetes_objects{kind=Pod}": 7, "egressd_kubernetes_watch_errors_total{kind=Pod}": 8,
		"egressd_kubernetes_refused_objects{kind=Sidecar}": 2, "egressd_kubernetes_last_event_timestamp_seconds{}": 2.5,
		"egressd_probe_captured{}": 1, "egressd_log_dropped_total{}": 9,
		"egressd_probe_success{family=ipv6,path=dns-udp}":                        1,
		"egressd_probe_last_success_timestamp_seconds{family=ipv6,path=dns-udp}": 1.5,
	} {
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("%s: %v (%t), want %v", name, v, ok, want)
		}
	}
}
