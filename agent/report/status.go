// SPDX-License-Identifier: Apache-2.0

// Package report is what the daemon says of itself: the status, and the metrics that
// are made of it.
package report

import (
	"fmt"
	"time"

	"github.com/egressd/egressd/agent/control"
	"github.com/egressd/egressd/agent/iface"
	"github.com/egressd/egressd/agent/selfprobe"
	"github.com/egressd/egressd/agent/workload"
	"github.com/egressd/egressd/dnsproxy"
	"github.com/egressd/egressd/forward"
	"github.com/egressd/egressd/forward/limits"
	"github.com/egressd/egressd/internal/certs"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/hold"
	"github.com/egressd/egressd/internal/learned"
	"github.com/egressd/egressd/internal/memcg"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio"
	"github.com/egressd/egressd/policy/source/kube"
	"github.com/egressd/egressd/policy/source/kubestatus"
)

// Status is what "egressd status -o json" prints.
type Status struct {
	Version string    `json:"version"`
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
	Ready   bool      `json:"ready"`
	Mode    string    `json:"mode"`
	Policy  Policy    `json:"policy"`
	// Kubernetes is what is known of the API server; nil: there is none.
	Kubernetes *kube.InformerStatus `json:"kubernetes,omitempty"`
	// Published is what the people of the cluster were told; nil: there is none.
	Published *kubestatus.Stats `json:"published,omitempty"`
	// Capture is what is captured, and whether it is held.
	Capture workload.CaptureStatus `json:"capture"`
	// Workloads are the captured cgroups.
	Workloads []WorkloadStatus `json:"workloads"`
	// Unbound says that cgroups do not have the policy of their Workload.
	Unbound string `json:"unbound,omitempty"`
	// Probe is what the daemon's probe of itself sees; nil: there is none.
	Probe *selfprobe.ProbeStatus `json:"probe,omitempty"`
	// Pins says whether what is attached outlives the daemon.
	Pins PinStatus `json:"pins"`
	// Unsaved says what could not be saved for the next start, and why, by file.
	Unsaved map[string]string `json:"unsaved,omitempty"`
	// Holding is what egressd lost in the kernel, and who stands beside it.
	Holding hold.State `json:"holding"`
	// Programs maps the attached programs to their kernel ids.
	Programs map[string]uint32 `json:"programs"`
	// Interfaces are the guarded network interfaces.
	Interfaces []iface.InterfaceStatus `json:"interfaces"`
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
	// Certificates are the certificates and credentials in use, without keys.
	Certificates []certs.Kept `json:"certificates,omitempty"`
	// Gates are where the listeners stand for sockets of other network
	// namespaces (pods, containers).
	Gates   []string          `json:"gates,omitempty"`
	Denials map[string]uint64 `json:"denials"` // by "layer/reason"
	// DenialKinds is how full the table of denials is.
	DenialKinds flow.DenialStats  `json:"denialKinds"`
	Features    map[string]string `json:"features"`
	Findings    []istio.Finding   `json:"findings,omitempty"`
}

// Policy is the part of the Status about the configuration.
type Policy = control.PolicyStatus

// WorkloadStatus is one workload; the first is all of what is captured that
// is no other.
type WorkloadStatus struct {
	Name string `json:"name"`
	// Cgroup is the first of Cgroups.
	Cgroup  string          `json:"cgroup"`
	Cgroups []string        `json:"cgroups"`
	Mode    string          `json:"mode"`
	Policy  policy.PolicyID `json:"policy"`
	// Origins are its connections that wait to be accepted and its DNS sockets, and how
	// many it may have (egd_origins).
	Origins loader.Fill `json:"pendingRedirects"`
	// Share is what it has of what proxied connections take.
	Share WorkloadShare `json:"share"`
}

// PinStatus says whether the kernel's side goes on when the daemon is killed.
type PinStatus struct {
	Dir     string `json:"dir"`
	Lasting bool   `json:"lasting"`
	// Error is why they don't outlive the daemon.
	Error string `json:"error,omitempty"`
}

// MemoryStatus is what the kernel's tables take of the memory that egressd may
// have, in bytes.
type MemoryStatus struct {
	Tables uint64 `json:"tables"`
	// Limit and Used are those of the memory cgroup that has the least left, and
	// Cgroup is its directory; 0 and empty: no limit.
	Limit  uint64 `json:"limit,omitempty"`
	Used   uint64 `json:"used,omitempty"`
	Cgroup string `json:"cgroup,omitempty"`
}

// Memory is what tables of so many bytes take of what there is. A limit that cannot be
// read is left out.
func Memory(tables uint64) MemoryStatus {
	m := MemoryStatus{Tables: tables}
	all, _ := memcg.Limits()
	if l, ok := memcg.Tightest(all); ok {
		m.Limit, m.Used, m.Cgroup = l.Max, l.Used, l.Dir
	}
	return m
}

// Text says it in words.
func (m MemoryStatus) Text() string {
	text := memcg.MiB(m.Tables)
	if m.Limit > 0 {
		text += fmt.Sprintf(" (the memory cgroup %s uses %s of its limit of %s)", m.Cgroup, memcg.MiB(m.Used), memcg.MiB(m.Limit))
	}
	return text
}

// WorkloadShare is what a workload has of what all share.
type WorkloadShare struct {
	limits.Share
	// Redirected is how many connections of its sockets in the node's own network
	// namespace are redirected: each has an ephemeral port.
	Redirected loader.Fill `json:"redirected"`
	// Full says that the next connection of the workload is refused (quota).
	Full bool `json:"full"`
}
