// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"os"
	"sync"
	"time"

	"github.com/egressd/egressd/agent/control"
	"github.com/egressd/egressd/dnsproxy"
	"github.com/egressd/egressd/forward"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/hold"
	"github.com/egressd/egressd/internal/learned"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio"
)

// Status is what "egressd status -o json" prints.
type Status struct {
	Version string         `json:"version"`
	PID     int            `json:"pid"`
	Started time.Time      `json:"started"`
	Ready   bool           `json:"ready"`
	Mode    string         `json:"mode"`
	Policy  control.Policy `json:"policy"`
	// Capture is what is captured, and whether it is held.
	Capture CaptureStatus `json:"capture"`
	// Workloads are the captured cgroups.
	Workloads []WorkloadStatus `json:"workloads"`
	// Unbound says that cgroups do not have the policy of their Workload.
	Unbound string `json:"unbound,omitempty"`
	// Probe is what the daemon's probe of itself sees; nil: there is none.
	Probe *ProbeStatus `json:"probe,omitempty"`
	// Pins says whether what is attached outlives the daemon.
	Pins PinStatus `json:"pins"`
	// Unsaved says what could not be saved for the next start, and why, by file.
	Unsaved map[string]string `json:"unsaved,omitempty"`
	// Holding is what egressd lost in the kernel, and who stands beside it.
	Holding hold.State `json:"holding"`
	// Programs maps the attached programs to their kernel ids.
	Programs map[string]uint32 `json:"programs"`
	// Interfaces are the guarded network interfaces.
	Interfaces []InterfaceStatus `json:"interfaces"`
	// Maps says how full the kernel's tables are.
	Maps map[string]loader.Fill `json:"maps"`
	// Memory is what these tables and all others take.
	Memory MemoryStatus `json:"memory"`
	// Kernel holds the kernel's counters: "deny/REASON", "pass/...".
	Kernel map[string]uint64 `json:"kernel"`
	// DNS holds the DNS proxy's counters.
	DNS map[string]uint64 `json:"dns"`
	// Learned is what the DNS proxy learned, over all policies; one policy may
	// have LearnedMax.
	Learned    learned.Size `json:"learned"`
	LearnedMax learned.Size `json:"learnedMax"`
	DNSServers []string     `json:"dnsServers"`
	// DNSUpstreams is how these servers are, DNSDegraded what it means that
	// some do not answer.
	DNSUpstreams []dnsproxy.UpstreamStatus `json:"dnsUpstreams"`
	DNSDegraded  string                    `json:"dnsDegraded,omitempty"`
	Connections  forward.Stats             `json:"connections"`
	Gateway      []string                  `json:"gateway,omitempty"`
	// GatewayConnections are those of the gateway's visitors.
	GatewayConnections *forward.Stats `json:"gatewayConnections,omitempty"`
	// GatewaySkipped says what Gateways ask for and is not served.
	GatewaySkipped []string `json:"gatewaySkipped,omitempty"`
	// Gates are where the listeners stand for sockets of other network
	// namespaces (pods, containers).
	Gates   []string          `json:"gates,omitempty"`
	Denials map[string]uint64 `json:"denials"` // by "layer/reason"
	// DenialKinds is how full the table of denials is.
	DenialKinds flow.DenialStats  `json:"denialKinds"`
	Features    map[string]string `json:"features"`
	Findings    []istio.Finding   `json:"findings,omitempty"`
}

// WorkloadStatus is one workload; the first is all of what is captured that
// is no other.
type WorkloadStatus struct {
	Name string `json:"name"`
	// Cgroup is the first of Cgroups.
	Cgroup  string          `json:"cgroup"`
	Cgroups []string        `json:"cgroups"`
	Mode    string          `json:"mode"`
	Policy  policy.PolicyID `json:"policy"`
	// Origins is how much of its share of egd_origins it uses.
	Origins loader.Fill `json:"origins"`
	// Share is what it has of what proxied connections take.
	Share WorkloadShare `json:"share"`
}

// status is the part of the Status that is not asked from others.
type status struct {
	agent   *Agent
	started time.Time

	mu    sync.Mutex
	ready bool
}

// errNotServing says that the agent begins, or ends.
var errNotServing = errors.New("egressd begins or ends")

func newStatus(a *Agent) *status { return &status{agent: a, started: time.Now()} }

func (s *status) setReady(ready bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ready = ready
}

// notReady is why the agent is not ready; nil: it is.
func (s *status) notReady() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ready {
		return errNotServing
	}
	return errors.Join(s.agent.capture.err(), s.agent.holding.Err(), s.agent.probe.notReady())
}

// Status gathers the state of everything. What cannot be read is left out.
func (a *Agent) Status() Status {
	s := a.status
	ready := s.notReady() == nil
	st := Status{
		Version: a.opts.Version, PID: os.Getpid(), Started: s.started, Ready: ready, Capture: a.captureStatus(),
		Mode: a.opts.Mode.String(),
	}
	st.Policy, st.Findings = a.control.Report()
	for _, w := range a.workloads.all() {
		st.Workloads = append(st.Workloads, WorkloadStatus{
			Name: w.name, Cgroup: w.dirs[0], Cgroups: w.dirs, Mode: w.Mode.String(), Policy: w.Policy, Origins: a.datapath.Origins(w.ID), Share: a.shareOf(w.ID),
		})
	}
	st.Unbound = a.workloads.short.text()
	for _, g := range a.gates() {
		st.Gates = append(st.Gates, g.String())
	}
	st.Probe = a.probe.status()
	st.Pins, st.Unsaved = a.pinStatus(), a.control.Unsaved.Texts()
	st.Holding = a.holding.State()
	st.Programs = a.datapath.Attached()
	st.Interfaces = a.interfaceStatus()
	st.Maps = a.fills.get(time.Now(), a.datapath.Fills)
	st.Memory = memoryStatus(a.datapath)
	st.Kernel, _ = a.datapath.Counters()
	st.DNS = a.dns.Stats()
	st.Learned, st.LearnedMax = a.names.Size(), a.names.Bounds()
	st.DNSUpstreams = a.dns.Upstreams()
	for _, server := range st.DNSUpstreams {
		st.DNSServers = append(st.DNSServers, server.Server)
	}
	st.DNSDegraded = degradedDNS(st.DNSUpstreams)
	st.Connections = a.outgoing.Stats()
	if a.incoming != nil {
		st.Gateway, st.GatewaySkipped = a.incoming.Addresses(), a.incoming.Skipped()
		visitors := a.incoming.Stats()
		st.GatewayConnections = &visitors
	}
	st.Denials = map[string]uint64{}
	for k, n := range a.recorder.events.Counts() {
		if !k.Allowed {
			st.Denials[string(k.Layer)+"/"+string(k.Reason)] += n
		}
	}
	st.DenialKinds = a.recorder.denials.Stats()
	st.Features = loader.Features()
	return st
}
