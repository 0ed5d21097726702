// SPDX-License-Identifier: Apache-2.0

package report

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/egressd/egressd/dnsproxy"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/learned"
	"github.com/egressd/egressd/loader"
)

// Source is what the daemon knows for its metrics, beside the Status.
type Source struct {
	Status func() Status
	// Events counts decisions by what they said, Dropped followers of events that did
	// not read, LogDropped lines of the log that nobody took; nil: none are lost.
	Events     func() map[flow.CountKey]uint64
	Dropped    func() uint64
	LogDropped func() uint64
	// Closed counts connections that were closed to make room, by interface.
	Closed func() map[string]uint64
	// Unbound is how many cgroups have no room, and Holding what was missed in the
	// kernel and put back.
	Unbound func() int64
	Holding func() (failures, repairs map[loader.FaultKind]uint64)
	// Saved are the files for the next start.
	Saved     []string
	Upstreams func() []dnsproxy.UpstreamStatus
}

// Registry has every metric of the daemon, and those of others. They are read when they
// are asked for: the kernel and the rooms keep the counts.
func Registry(s Source, more ...prometheus.Collector) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		metrics{s},
		upstreamMetrics{s.Upstreams},
		kubeMetrics{s.Status},
		publishedMetrics{s.Status},
	)
	r.MustRegister(more...)
	return r
}

// metrics collects from a Source.
type metrics struct{ from Source }

var (
	kernelDesc = prometheus.NewDesc("egressd_kernel_flows_total",
		"Flows that the kernel decided, by what it did (deny, pass, redirect, audit, lost) and why.",
		[]string{"action", "reason"}, nil)
	eventDesc = prometheus.NewDesc("egressd_events_total",
		"Decisions by layer, kind, result and reason.",
		[]string{"layer", "kind", "allowed", "reason"}, nil)
	dnsDesc = prometheus.NewDesc("egressd_dns_total",
		"Queries and answers of the DNS proxy, by what happened to them.", []string{"event"}, nil)
	mapDesc = prometheus.NewDesc("egressd_map_entries",
		"Entries of a kernel table.", []string{"map"}, nil)
	mapMaxDesc = prometheus.NewDesc("egressd_map_max_entries",
		"Room of a kernel table.", []string{"map"}, nil)
	shareDesc = prometheus.NewDesc("egressd_workload_pending_redirects",
		"Connections that wait to be accepted and DNS sockets, of a workload.", []string{"workload"}, nil)
	shareMaxDesc = prometheus.NewDesc("egressd_workload_max_pending_redirects",
		"How many of them a workload may have; more are refused (quota).", []string{"workload"}, nil)
	learnedDesc = prometheus.NewDesc("egressd_learned",
		"Names and addresses that the DNS proxy learned, and the openings (address table) and server names (name table) that they take in the kernel, over all policies.", []string{"kind"}, nil)
	learnedMaxDesc = prometheus.NewDesc("egressd_learned_max",
		"How many of each kind one policy may have; more are refused (quota).", []string{"kind"}, nil)
	openDesc = prometheus.NewDesc("egressd_connections_open",
		"Downstream connections that are open in the proxy.", []string{"side"}, nil)
	limitDesc = prometheus.NewDesc("egressd_forward_used",
		"Proxied connections, and the file descriptors, memory (bytes, at the most) and ports of loopback that they take.", []string{"resource"}, nil)
	limitMaxDesc = prometheus.NewDesc("egressd_forward_max",
		"How much of the resource all workloads together may use; no workload may use more than it leaves free (quota).", []string{"resource"}, nil)
	closedDesc = prometheus.NewDesc("egressd_interface_closed_total",
		"Connections to the admin, status and readiness interfaces that were closed to make room for newer ones.", []string{"interface"}, nil)
	droppedDesc = prometheus.NewDesc("egressd_followers_dropped_total",
		"Readers of the events that did not read, and were left.", nil, nil)
	logDroppedDesc = prometheus.NewDesc("egressd_log_dropped_total",
		"Lines of the log that were dropped, because whoever reads the log did not, or was gone.", nil, nil)
	unsavedDesc = prometheus.NewDesc("egressd_state_unsaved",
		"1 when a file for the next start could not be written; an older one, or none, counts then.", []string{"file"}, nil)
	unboundDesc = prometheus.NewDesc("egressd_cgroups_unbound",
		"Cgroups that a Workload describes and that are under the policy of the cgroup around them, for want of room (see egd_workloads).", nil, nil)
	readyDesc = prometheus.NewDesc("egressd_ready",
		"1 when policy is applied and the captured cgroups are held.", nil, nil)
	heldDesc = prometheus.NewDesc("egressd_capture_held",
		"1 when the programs are attached where they belong, and no process in a captured cgroup is free.", nil, nil)
	presentDesc = prometheus.NewDesc("egressd_capture_present",
		"1 when a captured cgroup is there; what is captured by name is held as well when it is not.", []string{"cgroup"}, nil)
	pinsDesc = prometheus.NewDesc("egressd_pins_lasting",
		"1 when what is in the kernel outlives the daemon; 0: all traffic is open when it is killed.", nil, nil)
	holdFailuresDesc = prometheus.NewDesc("egressd_hold_failures",
		"What egressd misses in the kernel and could not put back, by its kind (hook, interface, pin, listener).", []string{"kind"}, nil)
	holdRepairsDesc = prometheus.NewDesc("egressd_hold_repairs_total",
		"What somebody else took out of the kernel and egressd put back.", []string{"kind"}, nil)
	errorDesc = prometheus.NewDesc("egressd_policy_rejected",
		"1 when the newest configuration has errors, or no policy objects any more, and an older one is in force.", nil, nil)
)

func (m metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		kernelDesc, eventDesc, dnsDesc, mapDesc, mapMaxDesc, shareDesc, shareMaxDesc,
		learnedDesc, learnedMaxDesc, openDesc, limitDesc, limitMaxDesc, usedDesc, usedMaxDesc, fullDesc, recycledDesc, ejectionsDesc, closedDesc, droppedDesc, logDroppedDesc, unsavedDesc, unboundDesc, readyDesc, heldDesc, presentDesc, pinsDesc, holdFailuresDesc, holdRepairsDesc, errorDesc,
		expiresDesc, usableDesc,
		probeDesc, probeSuccessDesc, probeDurationDesc, probeCapturedDesc,
	} {
		ch <- d
	}
}

func (m metrics) Collect(ch chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, n uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	gauge := func(d *prometheus.Desc, n float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, n, labels...)
	}
	s := m.from.Status()
	for name, n := range s.Kernel {
		action, reason, _ := strings.Cut(name, "/")
		counter(kernelDesc, n, action, reason)
	}
	for k, n := range m.from.Events() {
		allowed := "false"
		if k.Allowed {
			allowed = "true"
		}
		counter(eventDesc, n, string(k.Layer), string(k.Kind), allowed, string(k.Reason))
	}
	for name, n := range s.DNS {
		counter(dnsDesc, n, name)
	}
	for name, f := range s.Maps {
		gauge(mapDesc, float64(f.Entries), name)
		gauge(mapMaxDesc, float64(f.Max), name)
	}
	for _, w := range s.Workloads {
		gauge(shareDesc, float64(w.Origins.Entries), w.Name)
		gauge(shareMaxDesc, float64(w.Origins.Max), w.Name)
	}
	shareMetrics(gauge, s)
	for d, n := range map[*prometheus.Desc]learned.Size{learnedDesc: s.Learned, learnedMaxDesc: s.LearnedMax} {
		gauge(d, float64(n.Names), "names")
		gauge(d, float64(n.Addresses), "addresses")
		gauge(d, float64(n.Openings), "openings")
		gauge(d, float64(n.ServerNames), "server_names")
	}
	gauge(openDesc, float64(s.Connections.Open), "egress")
	if s.GatewayConnections != nil {
		gauge(openDesc, float64(s.GatewayConnections.Open), "ingress")
	}
	for resource, u := range forwardParts(s.Connections.Connections, s.Connections.Descriptors, s.Connections.Memory, s.Connections.Ports) {
		gauge(limitDesc, float64(u.Used), resource)
		gauge(limitMaxDesc, float64(u.Max), resource)
	}
	for name, n := range m.from.Closed() {
		counter(closedDesc, n, name)
	}
	counter(recycledDesc, s.Connections.Recycled)
	ejectionMetrics(counter, s)
	counter(droppedDesc, m.from.Dropped())
	if dropped := m.from.LogDropped; dropped != nil {
		counter(logDroppedDesc, dropped())
	}
	gauge(readyDesc, truth(s.Ready))
	for _, file := range m.from.Saved {
		gauge(unsavedDesc, truth(s.Unsaved[file] != ""), file)
	}
	gauge(unboundDesc, float64(m.from.Unbound()))
	gauge(pinsDesc, truth(s.Pins.Lasting))
	gauge(heldDesc, truth(s.Capture.Held))
	for dir, present := range s.Capture.Cgroups {
		gauge(presentDesc, truth(present), dir)
	}
	failures, repairs := m.from.Holding()
	for kind, n := range failures {
		gauge(holdFailuresDesc, float64(n), string(kind))
		counter(holdRepairsDesc, repairs[kind], string(kind))
	}
	gauge(errorDesc, truth(s.Policy.Error != ""))
	certMetrics(gauge, s)
	probeMetrics(s.Probe, gauge)
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
