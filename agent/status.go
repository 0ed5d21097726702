// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"os"
	"time"

	"github.com/egressd/egressd/agent/report"
	"github.com/egressd/egressd/agent/resolve"
	"github.com/egressd/egressd/agent/selfprobe"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/loader/kernel"
)

// Parts of what "egressd status -o json" prints.
type (
	Status         = report.Status
	Policy         = report.Policy
	ProbeStatus    = selfprobe.ProbeStatus
	PinStatus      = report.PinStatus
	MemoryStatus   = report.MemoryStatus
	WorkloadStatus = report.WorkloadStatus
	WorkloadShare  = report.WorkloadShare
)

// Status gathers the state of everything. What cannot be read is left out.
func (a *Agent) Status() Status {
	st := Status{
		Version: a.opts.Version, PID: os.Getpid(), Started: a.started, Ready: a.ready.Err() == nil, Capture: a.capture.Status(),
		Mode: a.opts.Mode.String(),
	}
	st.Policy, st.Findings = a.control.Report()
	st.Kubernetes, st.Published = a.kubernetes.Report(), a.publisher.Report()
	for _, w := range a.workloads.All() {
		st.Workloads = append(st.Workloads, WorkloadStatus{
			Name: w.Name, Cgroup: w.Dirs[0], Cgroups: w.Dirs, Mode: w.Mode.String(), Policy: w.Policy, Origins: a.datapath.Origins(w.ID), Share: a.shareOf(w.ID),
		})
	}
	_, st.Unbound = a.workloads.Unbound()
	for _, g := range a.sockets.Gates() {
		st.Gates = append(st.Gates, g.String())
	}
	st.Probe = a.probe.Status()
	st.Pins, st.Unsaved = a.pinStatus(), a.control.Unsaved.Texts()
	st.Holding = a.holding.State()
	st.Programs = a.datapath.Attached()
	st.Interfaces = a.guards.Status()
	st.Maps = a.fills.Get(time.Now(), a.datapath.Fills)
	st.Memory = report.Memory(a.datapath.Memory())
	st.Kernel, _ = a.datapath.Counters()
	st.DNS = a.dns.Stats()
	st.Learned, st.LearnedMax = a.names.Size(), a.names.Bounds()
	st.DNSUpstreams = a.dns.Upstreams()
	for _, server := range st.DNSUpstreams {
		st.DNSServers = append(st.DNSServers, server.Server)
	}
	st.DNSDegraded = resolve.Degraded(st.DNSUpstreams)
	st.Connections = a.outgoing.Stats()
	if a.incoming != nil {
		st.Gateway, st.GatewaySkipped = a.incoming.Addresses(), a.incoming.Skipped()
		visitors := a.incoming.Stats()
		st.GatewayConnections = &visitors
	}
	st.Certificates = a.stock.Status()
	st.Denials = map[string]uint64{}
	for k, n := range a.recorder.Counts() {
		if !k.Allowed {
			st.Denials[string(k.Layer)+"/"+string(k.Reason)] += n
		}
	}
	st.DenialKinds = a.recorder.Stats()
	st.Features = kernel.Features()
	return st
}

func (a *Agent) shareOf(workload uint32) WorkloadShare {
	s := WorkloadShare{Share: a.outgoing.ShareOf(flow.Egress, workload), Redirected: a.datapath.Conns(workload)}
	s.Full = s.Share.Full() || s.Redirected.Max > 0 && s.Redirected.Entries >= s.Redirected.Max
	return s
}

func (a *Agent) pinStatus() PinStatus {
	s := PinStatus{Dir: a.opts.PinDir, Lasting: true}
	if err := a.lasting(); err != nil {
		s.Lasting, s.Error = false, err.Error()
	}
	return s
}
