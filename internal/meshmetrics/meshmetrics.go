// SPDX-License-Identifier: Apache-2.0

// Package meshmetrics counts requests and connections under the names and labels that
// Istio's proxies use (istio.io, "Istio standard metrics"), so that dashboards for
// these show egressd. How many series there are is bounded.
package meshmetrics

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/egressd/egressd/internal/field"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/telemetry"
	"github.com/egressd/egressd/policy"
)

const (
	// DefaultSeries is how many series there may be, each with its histograms: some
	// 4 KiB of memory.
	DefaultSeries = 1000
	// unknown is Istio's word for what is not known, other stands in every label of
	// what there is no room for.
	unknown = "unknown"
	other   = "other"
	// forgetAfter is how long nothing must have been counted in a series for it to be
	// forgotten when another needs its room, forgetEvery how often that is looked for.
	forgetAfter = time.Hour
	forgetEvery = time.Minute
)

// common are the labels that all metrics have; those of requests have more.
var (
	common = []string{
		"reporter", "source_workload", "source_canonical_service", "source_canonical_revision", "source_workload_namespace",
		"source_principal", "source_app", "source_version", "source_cluster", "destination_workload",
		"destination_workload_namespace", "destination_principal", "destination_app", "destination_version",
		"destination_service", "destination_canonical_service", "destination_canonical_revision", "destination_service_name",
		"destination_service_namespace", "destination_cluster", "request_protocol", "response_flags", "connection_security_policy",
	}
	ofRequests = append(common[:len(common):len(common)], "response_code", "grpc_response_status")
)

// buckets are Envoy's (envoy source/common/stats/histogram_impl.cc, default_buckets):
// milliseconds of durations, bytes of sizes.
var buckets = []float64{0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 300000, 600000, 1800000, 3600000}

// series are the metrics of one set of labels.
type series struct {
	key    key
	labels [4][]string  // of each metric, in their order; nil: there is none
	used   atomic.Int64 // when something was counted last, in seconds since 1970

	requests                     prometheus.Counter // of requests
	duration, sent, received     prometheus.Observer
	bytesSent, bytesReceived     prometheus.Counter // of connections
	connectionsOpened, connsOver prometheus.Counter
}

// key says which series something is counted in.
type key struct {
	connection             bool
	workload               string
	service                string
	namespace, serviceName string
	protocol               string
	flags                  string
	code, grpc             int // grpc -1: there is none
	// custom are the values of all labels of all metrics where a Telemetry object says
	// something of them: nothing else is set then but the workload.
	custom string
}

// Options say how much there may be, and who workloads are.
type Options struct {
	// Series bounds the series; 0: DefaultSeries. A workload has no more of them than
	// it leaves free.
	Series int
	// Identity is that of a workload; nil: nothing is known of any.
	Identity func(workload string) (policy.Identity, bool)
}

// Metrics is a flow.Observer, and a collector of Prometheus. Use New.
type Metrics struct {
	o     Options
	rules atomic.Pointer[telemetry.Rulebook] // nil: no Telemetry says anything
	none  prometheus.Counter                 // counts what is not wanted
	nor   prometheus.Histogram

	mu       sync.RWMutex
	extra    []string // labels of Telemetry objects, behind the others
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	sizes    [2]*prometheus.HistogramVec // of requests and responses
	tcp      [4]*prometheus.CounterVec   // sent, received, opened, closed

	series map[key]*series
	// recent is what was counted in last: most is like what came before it, and need
	// not be looked for. It is set with mu held by a reader, and let go of by a writer.
	recent atomic.Pointer[series]
	shares map[string]int // of workloads
	swept  time.Time
	rest   [2]*series // of requests, and of connections

	overflow  prometheus.Counter
	now, most prometheus.GaugeFunc
}

// New makes Metrics.
func New(o Options) *Metrics {
	if o.Series <= 0 {
		o.Series = DefaultSeries
	}
	if o.Identity == nil {
		o.Identity = func(string) (policy.Identity, bool) { return policy.Identity{}, false }
	}
	m := &Metrics{
		o: o, series: map[key]*series{}, shares: map[string]int{}, none: prometheus.NewCounter(prometheus.CounterOpts{Name: "none"}),
		nor: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "none"}),
	}
	m.overflow = prometheus.NewCounter(prometheus.CounterOpts{Name: "egressd_mesh_series_overflow_total",
		Help: "Requests and connections that are counted in the series with the value other in their labels, because there was no room for one of their own."})
	m.now = prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "egressd_mesh_series", Help: "Series of Istio's standard metrics."},
		func() float64 { m.mu.RLock(); defer m.mu.RUnlock(); return float64(len(m.series)) })
	m.most = prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "egressd_mesh_series_max", Help: "How many series of Istio's standard metrics there may be; what comes beyond is counted together."},
		func() float64 { return float64(m.o.Series) })
	m.begin(nil)
	return m
}

// begin makes all metrics anew, with more labels. The caller holds mu, or is alone.
func (m *Metrics) begin(extra []string) {
	m.extra = extra
	requests, connections := slices.Concat(ofRequests, extra), slices.Concat(common, extra)
	counter := func(name, help string, labels []string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	histogram := func(name, help string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, requests)
	}
	m.requests = counter("istio_requests_total", "HTTP requests that have ended.", requests)
	m.duration = histogram("istio_request_duration_milliseconds", "How long HTTP requests took.")
	m.sizes[0] = histogram("istio_request_bytes", "Sizes of the bodies of HTTP requests.")
	m.sizes[1] = histogram("istio_response_bytes", "Sizes of the bodies of answers to HTTP requests.")
	m.tcp[0] = counter("istio_tcp_sent_bytes_total", "Bytes that were sent to clients on connections whose bytes are not read as HTTP, and that have ended.", connections)
	m.tcp[1] = counter("istio_tcp_received_bytes_total", "Bytes that were received from clients on such connections.", connections)
	m.tcp[2] = counter("istio_tcp_connections_opened_total", "Such connections that were opened.", connections)
	m.tcp[3] = counter("istio_tcp_connections_closed_total", "Such connections that have ended, or were denied.", connections)
	m.recent.Store(nil)
	clear(m.series)
	clear(m.shares)
	for i, connection := range []bool{false, true} {
		k := key{connection: connection}
		labels := make([]string, len(m.names(k)))
		for j := range labels {
			labels[j] = other
		}
		labels[0] = "source"
		m.rest[i] = m.make(k, [4][]string{labels, labels, labels, labels})
	}
}

// names are those of the labels of a key.
func (m *Metrics) names(k key) []string {
	if k.connection {
		return slices.Concat(common, m.extra)
	}
	return slices.Concat(ofRequests, m.extra)
}

// collectors are all parts.
func (m *Metrics) collectors() []prometheus.Collector {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return []prometheus.Collector{m.requests, m.duration, m.sizes[0], m.sizes[1], m.tcp[0], m.tcp[1], m.tcp[2], m.tcp[3], m.overflow, m.now, m.most}
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range m.collectors() {
		c.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	for _, c := range m.collectors() {
		c.Collect(ch)
	}
}

// Observe implements flow.Observer.
func (m *Metrics) Observe(o *flow.Observation) {
	switch {
	case o.Kind == flow.Request:
		s := m.of(o)
		s.requests.Inc()
		s.duration.Observe(float64(o.Duration) / float64(time.Millisecond))
		s.received.Observe(float64(o.BytesSent))
		s.sent.Observe(float64(o.BytesReceived))
	case o.Transport != policy.TCP || o.Kind != flow.Close && o.Kind != flow.Decision:
	case o.Begun:
		m.of(o).connectionsOpened.Inc()
	case o.Kind == flow.Decision && o.Allowed:
		// It is let pass in audit mode: its end is counted.
	default:
		s := m.of(o)
		s.bytesReceived.Add(float64(max(o.BytesSent, 0)))
		s.bytesSent.Add(float64(max(o.BytesReceived, 0)))
		s.connsOver.Inc()
		if o.Kind == flow.Decision {
			s.connectionsOpened.Inc()
		}
	}
}

// keyOf says where something is counted. All strings are of the policy, or of few.
func keyOf(o *flow.Observation) key {
	k := key{connection: o.Kind != flow.Request, workload: o.Workload, flags: o.ResponseFlags, code: o.Status, grpc: -1, protocol: "http"}
	switch {
	case k.connection:
		k.protocol, k.code = "tcp", 0
	case o.GRPC():
		k.protocol, k.grpc = "grpc", grpcStatus(o)
	}
	var rule *policy.Ref
	switch {
	case o.To != nil:
		k.service, rule = o.To.Host, o.To.Rule
	case !o.Allowed:
		k.serviceName = "BlackHoleCluster"
	case o.Host != nil:
		k.service, rule = string(o.Host.Pattern), o.Host.Rule
	case k.connection:
		k.serviceName = "PassthroughCluster"
	}
	if rule != nil {
		k.namespace = rule.Namespace
		if rule.Kind == "Service" {
			k.serviceName = rule.Name
		}
	}
	return k
}

// grpcStatus is the status of a call; -1: it has none, or none that gRPC knows.
func grpcStatus(o *flow.Observation) int {
	const most = 16 // UNAUTHENTICATED
	for _, l := range [...]field.List{o.Trailer, o.Response} {
		if n, err := strconv.Atoi(l.Get("grpc-status")); err == nil && n >= 0 && n <= most {
			return n
		}
	}
	return -1
}

// of is the series of what is observed.
func (m *Metrics) of(o *flow.Observation) *series {
	k := keyOf(o)
	if b := m.rules.Load(); b != nil {
		if r := b.Rules(telemetry.Of(o)); r.Counts() {
			return m.custom(r, k, o)
		}
	}
	s := m.find(k)
	if s == nil {
		s = m.add(k, o.Time, func() [4][]string {
			labels := slices.Concat(m.labels(k), make([]string, len(m.extra)))
			return [4][]string{labels, labels, labels, labels}
		})
	}
	s.touch(o.Time)
	return s
}

// find is the series of a key, nil: there is none yet.
func (m *Metrics) find(k key) *series {
	if r := m.recent.Load(); r != nil && r.key == k {
		return r
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	s := m.series[k]
	m.recent.Store(s)
	return s
}

func (s *series) touch(at time.Time) {
	if now := at.Unix(); s.used.Load() != now {
		s.used.Store(now)
	}
}

// add makes the series of a key, or has what comes be counted together with others.
func (m *Metrics) add(k key, at time.Time, labels func() [4][]string) *series {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.series[k]; s != nil {
		return s
	}
	if m.full(k.workload) {
		m.forget(at)
	}
	values, want := labels(), len(m.names(k))
	stale := slices.ContainsFunc(values[:], func(l []string) bool { return l != nil && len(l) != want }) // they have changed meanwhile
	if stale || m.full(k.workload) {
		m.overflow.Inc()
		if k.connection {
			return m.rest[1]
		}
		return m.rest[0]
	}
	s := m.make(k, values)
	s.used.Store(at.Unix())
	m.series[k] = s
	m.shares[k.workload]++
	return s
}

// full says whether a workload has all that it may: as much as it leaves free.
func (m *Metrics) full(workload string) bool {
	return m.shares[workload] >= m.o.Series-len(m.series)
}

// forget drops the series in which nothing was counted for long.
func (m *Metrics) forget(now time.Time) {
	if now.Sub(m.swept) < forgetEvery {
		return
	}
	m.swept = now
	m.recent.Store(nil)
	for k, s := range m.series {
		if now.Unix()-s.used.Load() < int64(forgetAfter/time.Second) {
			continue
		}
		delete(m.series, k)
		if m.shares[k.workload]--; m.shares[k.workload] == 0 {
			delete(m.shares, k.workload)
		}
		m.drop(k, s)
	}
}

// drop takes the series of a key out of the metrics, but what others have as well.
func (m *Metrics) drop(k key, s *series) {
	vectors := m.vectors(k)
	for i, labels := range s.labels {
		shared := k.custom != "" && slices.ContainsFunc(slices.Collect(maps.Values(m.series)), func(o *series) bool {
			return len(o.labels[i]) == len(labels) && slices.Equal(o.labels[i], labels)
		})
		if labels != nil && !shared {
			vectors[i].DeleteLabelValues(labels...)
		}
	}
}

// vectors are the metrics that a key is counted in.
func (m *Metrics) vectors(k key) [4]interface{ DeleteLabelValues(...string) bool } {
	if k.connection {
		return [4]interface{ DeleteLabelValues(...string) bool }{m.tcp[0], m.tcp[1], m.tcp[2], m.tcp[3]}
	}
	return [4]interface{ DeleteLabelValues(...string) bool }{m.requests, m.duration, m.sizes[0], m.sizes[1]}
}

// make makes series of labels.
func (m *Metrics) make(k key, labels [4][]string) *series {
	s := &series{key: k, labels: labels}
	counter := func(v *prometheus.CounterVec, i int) prometheus.Counter {
		if labels[i] == nil {
			return m.none
		}
		return v.WithLabelValues(labels[i]...)
	}
	histogram := func(v *prometheus.HistogramVec, i int) prometheus.Observer {
		if labels[i] == nil {
			return m.nor
		}
		return v.WithLabelValues(labels[i]...)
	}
	if k.connection {
		s.bytesSent, s.bytesReceived = counter(m.tcp[0], 0), counter(m.tcp[1], 1)
		s.connectionsOpened, s.connsOver = counter(m.tcp[2], 2), counter(m.tcp[3], 3)
		return s
	}
	s.requests, s.duration = counter(m.requests, 0), histogram(m.duration, 1)
	s.received, s.sent = histogram(m.sizes[0], 2), histogram(m.sizes[1], 3)
	return s
}

// labels are the values of a key's labels, in their order.
func (m *Metrics) labels(k key) []string {
	id, _ := m.o.Identity(k.workload)
	namespace, name, ok := strings.Cut(k.workload, "/")
	if !ok {
		namespace, name = "", k.workload
	}
	name, namespace = known(id.Name, name), known(id.Namespace, namespace)
	app := known(id.Labels["app"], id.Labels["app.kubernetes.io/name"])
	version := known(id.Labels["version"], id.Labels["app.kubernetes.io/version"])
	canonical := known(id.Labels["service.istio.io/canonical-name"], id.Labels["app.kubernetes.io/name"], id.Labels["app"], name)
	revision := known(id.Labels["service.istio.io/canonical-revision"], id.Labels["app.kubernetes.io/version"], id.Labels["version"], "latest")
	out := []string{
		"source", name, canonical, revision, namespace, unknown, app, version, unknown,
		unknown, unknown, unknown, unknown, unknown,
		known(k.service), unknown, unknown, known(k.serviceName, k.service), known(k.namespace), unknown,
		k.protocol, or(k.flags, "-"), unknown,
	}
	if k.connection {
		return out
	}
	grpc := ""
	if k.grpc >= 0 {
		grpc = strconv.Itoa(k.grpc)
	}
	return append(out, strconv.Itoa(k.code), grpc)
}

// known is the first that is not empty.
func known(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return unknown
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
