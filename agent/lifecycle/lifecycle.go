// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/egressd/egressd/agent/control"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio"
)

// Manager is the service manager; it is a sdnotify.Manager.
type Manager interface {
	Ready(status string)
	Reloading()
	Stopping(status string)
	Status(status string)
}

// Capture is what is captured; it is a workload.Capture.
type Capture interface {
	Named() []string
	Err() error
}

// Policy is the policy in force; it is a control.Control.
type Policy interface {
	Report() (control.PolicyStatus, []istio.Finding)
	Reload()
	ReloadObjects()
}

// Options of a Lifecycle.
type Options struct {
	// Daemon is false for the gateway of one command, which says less.
	Daemon  bool
	Version string
	Mode    policy.Mode
	PinDir  string
	Manager Manager
	Policy  Policy
	Log     *slog.Logger
}

// Lifecycle tells how a daemon is. Make one with New.
type Lifecycle struct {
	o       Options
	log     *slog.Logger
	reloads requests
}

// New makes one of a daemon that has said nothing yet.
func New(o Options) *Lifecycle {
	return &Lifecycle{o: o, log: o.Log, reloads: newRequests()}
}

// Starts says that the daemon starts; over: one that runs.
func (l *Lifecycle) Starts(c Capture, over bool) {
	if !l.o.Daemon {
		return
	}
	traffic := "the egressd that runs serves until this one takes over"
	if !over {
		traffic = "until it is ready, " + WithoutDaemon(l.o.PinDir)
	}
	l.log.Info("egressd starts", "version", l.o.Version, "mode", l.o.Mode.String(), "cgroups", c.Named(), "traffic", traffic)
}

// Ready says that the daemon serves.
func (l *Lifecycle) Ready(c Capture) {
	traffic := TrafficOn
	if l.o.Mode == policy.Audit {
		traffic = "denials are logged and let pass, except for workloads whose own mode is enforce"
	}
	p, _ := l.o.Policy.Report()
	l.log.Info("ready", "cgroups", c.Named(), "held", c.Err() == nil, "mode", l.o.Mode.String(), "policy", short(p.Hash), "traffic", traffic)
	l.o.Manager.Ready(l.summary())
}

// Ending is how a daemon is that ends.
type Ending struct {
	// Unload says that the kernel's side ends with it.
	Unload bool
	// NotReady is why it is not ready, NotLasting why the kernel's side does not
	// outlive it; nil: it is, and it does.
	NotReady, NotLasting error
	Within               time.Duration // may open requests finish
}

// Stops says that the daemon ends, after which the kernel goes on, or does not.
func (l *Lifecycle) Stops(e Ending) {
	traffic := "the policy stays in force; what needs the proxy or DNS is refused until egressd is back; \"egressd unload\" opens all traffic"
	switch {
	case e.Unload:
		traffic = trafficOpen
	case e.NotReady != nil:
		traffic = WithoutDaemon(l.o.PinDir)
	case e.NotLasting != nil:
		traffic = "when egressd has ended, " + trafficOpen
	}
	if l.o.Daemon {
		l.log.Info("egressd stops; open requests may finish", "within", e.Within, "traffic", traffic)
	}
	l.o.Manager.Stopping("Stopping: " + traffic)
}

// summary is one line about the policy.
func (l *Lifecycle) summary() string {
	p, _ := l.o.Policy.Report()
	in := fmt.Sprintf("mode %s, policy %.12s of %s", l.o.Mode, p.Hash, p.Loaded.Format(time.DateTime))
	if p.Error != "" {
		return "The newest policy has errors and is not applied; " + in + " stays in force: " + p.Error
	}
	return "Ready: " + in
}

// FilesChanged follows a change of the files.
func (l *Lifecycle) FilesChanged() {
	l.readAgain()
	l.o.Manager.Status(l.summary())
}

// ObjectsChanged follows a change of the API server's objects.
func (l *Lifecycle) ObjectsChanged() {
	l.o.Policy.ReloadObjects()
	l.o.Manager.Status(l.summary())
}

// short is as much of a hash as people read.
func short(hash string) string { return hash[:min(len(hash), 12)] }
