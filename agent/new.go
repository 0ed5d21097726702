// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/egressd/egressd/agent/containers"
	"github.com/egressd/egressd/agent/control"
	"github.com/egressd/egressd/agent/earlier"
	"github.com/egressd/egressd/agent/events"
	"github.com/egressd/egressd/agent/exec"
	"github.com/egressd/egressd/agent/govern"
	"github.com/egressd/egressd/agent/iface"
	"github.com/egressd/egressd/agent/learnedfile"
	"github.com/egressd/egressd/agent/lifecycle"
	"github.com/egressd/egressd/agent/listen"
	"github.com/egressd/egressd/agent/observe"
	"github.com/egressd/egressd/agent/origin"
	"github.com/egressd/egressd/agent/own"
	"github.com/egressd/egressd/agent/resolve"
	"github.com/egressd/egressd/agent/resources"
	"github.com/egressd/egressd/agent/selfprobe"
	"github.com/egressd/egressd/agent/state"
	"github.com/egressd/egressd/agent/takeover"
	"github.com/egressd/egressd/agent/teardown"
	"github.com/egressd/egressd/agent/workload"
	"github.com/egressd/egressd/dnsproxy"
	"github.com/egressd/egressd/egress"
	"github.com/egressd/egressd/forward"
	"github.com/egressd/egressd/forward/originate"
	"github.com/egressd/egressd/ingress"
	"github.com/egressd/egressd/internal/certs"
	"github.com/egressd/egressd/internal/handover"
	"github.com/egressd/egressd/internal/hold"
	"github.com/egressd/egressd/internal/ipguard"
	"github.com/egressd/egressd/internal/learned"
	"github.com/egressd/egressd/internal/loglevel"
	"github.com/egressd/egressd/internal/sdnotify"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/loader/kernel"
	"github.com/egressd/egressd/loader/telemetry"
	"github.com/egressd/egressd/policy/source"
)

// New loads the policy, the kernel programs and the listeners, but captures
// nothing yet. The caller must call Close, unless New fails.
func New(ctx context.Context, o Options) (*Agent, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	made := state.Made(o.StateDir)
	lock, h, set, err := takeover.LockOrReach(ctx, o.StateDir, o.Version, o.Takeover, o.Log)
	if err != nil {
		return nil, err
	}
	if h == nil {
		exec.SweepLeft(o.StateDir, filepath.Dir(o.PinDir))
	}
	return newAgent(ctx, o, lock, made, h, set)
}

// newAgent is New with validated options and the lock of the state directory,
// which it takes over; made are the parts of that which this start has made. h is
// the daemon before, which lives, and set what it hands over.
func newAgent(ctx context.Context, o Options, lock *os.File, made []string, h *takeover.Incumbent, set *handover.SocketSet) (_ *Agent, err error) {
	a := &Agent{
		opts:     o,
		log:      o.Log,
		lock:     lock,
		started:  time.Now(),
		recorder: events.NewRecorder(o.Log),
		unload:   make(chan struct{}),
		begun:    teardown.Begin(teardown.StartOptions{StateDir: o.StateDir, PinDir: o.PinDir, Made: made, Gates: o.Daemon}),
		holding:  hold.NewKeeper(o.Log),

		holder: h, inherited: set, heirs: make(chan *handover.Channel),
	}
	var unfollowed error
	a.kubernetes, unfollowed = a.follow()
	a.stock = certs.NewStock(certs.Options{Log: o.Log})
	a.control = control.New(o.control(a.kubernetes.Objects(), a.stock.SetSecrets))
	if o.Daemon {
		a.manager = sdnotify.New(o.Log)
	}
	a.life = lifecycle.New(lifecycle.Options{
		Daemon: o.Daemon, Version: o.Version, Mode: o.Mode, PinDir: o.PinDir, Manager: a.manager, Policy: a.control, Log: o.Log,
	})
	a.devices = listen.NewDevices(o.Log)
	a.ready = lifecycle.NewReadiness(func() error { return a.capture.Err() }, a.holding.Err, func() error { return a.probe.NotReady() })
	defer func() {
		if err != nil {
			err = errors.Join(a.notTaken(err), a.rollBack(), a.Close())
		}
	}()
	if unfollowed != nil {
		return nil, unfollowed
	}
	if a.publisher, err = a.publish(); err != nil {
		return nil, err
	}
	if a.capture, err = workload.NewCapture(workload.CaptureOptions{Cgroups: o.Cgroups, Pods: o.Pods != nil, Follow: o.Daemon, Delegated: o.Delegated, Log: o.Log}, kernel.CanFollow); err != nil {
		return nil, err
	}
	for _, dir := range a.capture.Named() {
		workload.WarnDelegated(o.Log, dir)
	}
	// Watching starts before reading, so that no change falls in between.
	a.watcher = source.NewWatcher(slices.Concat(o.Config, o.Allow.Paths), o.Log)
	a.life.Starts(a.capture, a.holder != nil)
	exempt, err := a.claim()
	if err != nil {
		return nil, err
	}
	first, err := a.kubernetes.First(ctx, a.holder != nil, func() string { return lifecycle.WithoutDaemon(o.PinDir) },
		func() (control.Loaded, error) { return a.control.First(a.holder != nil) })
	if err != nil {
		return nil, err
	}
	probed := probeFeatures(o.Log)
	defer func() { <-probed }()
	reads := kernel.Reads{Captured: a.capture.MayFollow(), Containers: a.mayHold()}
	if a.datapath, err = loader.Open(loader.Options{PinDir: o.PinDir, Renew: true, Sizes: o.tableSizes(), Reads: reads}); err != nil {
		return nil, err
	}
	resources.LimitHeap(o.Log, a.datapath.Memory())
	if err := a.listen(ctx); err != nil {
		return nil, err
	}
	if err := a.bind(exempt); err != nil {
		return nil, err
	}
	if err := a.wire(); err != nil {
		return nil, err
	}
	if err := a.startPolicy(first); err != nil {
		return nil, err
	}
	return a, nil
}

// probeFeatures probes the kernel beside what takes longer, and says what it lacks; it
// closes the channel when that is done.
func probeFeatures(log *slog.Logger) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for name, state := range kernel.Features() {
			if state != "yes" {
				log.Warn("the kernel lacks a feature that egressd uses; docs/SECURITY-MODEL.md says what is not enforced without it", "feature", name, "probe", state)
			}
		}
	}()
	return done
}

// claim makes the pins and the cgroup this daemon's, whose id it returns: that is
// exempt.
func (a *Agent) claim() (exempt uint64, err error) {
	for _, step := range []func() error{a.begun.Look, a.preparePins, a.lockPins, a.begun.Adopt} {
		if err := step(); err != nil {
			return 0, err
		}
	}
	return workload.ExemptOwn(a.capture, a.opts.PinDir, a.before())
}

// listen opens the sockets that flows are led to.
func (a *Agent) listen(ctx context.Context) (err error) {
	var gates []netip.Addr
	if a.opts.Daemon {
		gates = listen.OpenGates(a.log)
	}
	if err := a.fromManager(); err != nil {
		return err
	}
	a.sockets, err = listen.Open(ctx, listen.Options{
		Fixed: a.opts.Daemon, Transparent: a.opts.Guard.Workloads(), Gates: gates, From: a.inherited, Admin: a.opts.adminPort(), Log: a.log,
	})
	return err
}

// mayHold says whether the kernel can hold new containers until it is known what they are.
func (a *Agent) mayHold() bool { return a.opts.Daemon && a.capture.MayHold(kernel.CanFollow) }

// bind makes what says whose cgroups and interfaces are whose.
func (a *Agent) bind(exempt uint64) (err error) {
	o := a.opts
	a.containers = containers.New(containers.Clients(o.ContainerSockets), o.Log)
	if a.workloads, err = workload.NewBinding(a.capture, a.datapath, workload.Options{
		Name: o.Workload, Mode: o.Mode, Described: o.Daemon, Services: o.NodeServices, Pods: o.podOptions(), Containers: a.containers, Holds: a.mayHold(), Own: exempt, Before: a.before(),
		More: func(table map[uint64]loader.WorkloadState) { a.probe.Bind(table) }, Log: o.Log,
		Open: a.narrow.Open, Pending: a.narrow.Pending,
	}); err != nil {
		return err
	}
	a.guards = iface.New(iface.Options{
		Choice: o.Guard, Workload: func() loader.WorkloadState { return a.workloads.NodeWorkload(a.control.Snapshot()) }, Datapath: a.datapath, Log: o.Log,
	})
	if o.Daemon {
		a.probe = selfprobe.New(o.Probe, selfprobe.Daemon{
			At: a.capture.At, Sockets: a.sockets, Workloads: a.workloads, Log: o.Log,
			Bind: func() error { return a.governor.Bind() }, Well: func() { _ = a.outgoing.Stats() },
		})
	}
	return nil
}

// wire makes the rooms and connects them.
func (a *Agent) wire() error {
	if err := own.Read(&a.addresses, a.datapath); err != nil {
		return err
	}
	self := a.self()
	var err error
	if a.opts.Daemon {
		if a.observers, err = observe.New(a.opts.observed(a.control.Snapshot)); err != nil {
			return err
		}
	}
	if err := a.openFlowLog(); err != nil {
		return err
	}
	if a.nodeDNS, err = resolve.Follow(a.opts.nodeDNS(self.IsDNS)); err != nil {
		return err
	}
	guard := ipguard.NewLive(&a.addresses)
	a.limits = resources.New(a.opts.Limits, a.log)
	names := learned.Options{
		Guard: guard, InUse: func() (map[netip.Addr]bool, error) { return a.earlier.LiveAddresses() }, Log: a.log,
		Floor: a.opts.DNSMinTTL, Cap: a.opts.DNSMaxTTL, Grace: a.opts.DNSGrace,
	}
	resources.LearnedBounds(&names, a.opts.Sizes.Addresses)
	a.names = learned.New(a.datapath, a.control, names)
	if a.opts.Daemon {
		a.remembered = learnedfile.New(a.opts.StateDir, a.names, &a.control.Unsaved)
	}
	who := origin.Lookup{Datapath: a.datapath, Workloads: a.workloads, Probe: a.probe}
	a.identify = who.Identify
	a.kernel = &events.Kernel{
		Recorder: a.recorder, Names: a.names, Policies: a.control, Workload: a.workloads.NameOf, Pod: a.workloads.PodOf, Interface: a.guards.NameOf,
		Probe: workload.Probe, Observer: a.observers.Observer(), Log: a.log,
		End: func(k telemetry.KernelEvent) error { return a.datapath.Destroy(k.Socket(), k.PID, a.capture.Processes) },
	}
	a.earlier = earlier.New(earlier.Options{
		Capture: a.capture, Workloads: a.workloads, Datapath: a.datapath, Policies: a.control, Names: a.names, Sink: a.recorder, Log: a.log,
	})
	a.governor = govern.New(govern.Options{
		Workloads: a.workloads, Interfaces: a.guards, Capture: a.capture, Earlier: a.earlier, Datapath: a.datapath, Narrow: &a.narrow, Log: a.log,
	})
	a.upkeep = a.keepUp()
	a.dns = dnsproxy.New(dnsproxy.Config{
		Origins:   who,
		Policies:  a.control,
		Names:     a.names,
		Upstreams: a.nodeDNS.Current(),
		Stale:     a.opts.DNSStale,
		SearchOf:  resolve.NewSearches().Of,
		Serves:    resolve.NewServers(a.addresses.Has).Serves,
		Denied:    a.opts.DNSDenied,
		Guard:     guard,
		Sink:      a.recorder,
		Log:       loglevel.Scope(a.log, scopeDNS),

		MaxInflight: a.limits.Queries, MaxPerWorkload: a.limits.QueriesEach,
		MaxConns: a.limits.Conns, MaxConnsPerWorkload: a.limits.ConnsEach,
	})
	out := egress.New(egress.Options{
		Policies: a.control,
		Names:    a.names,
		Resolver: a.dns,
		Guard:    guard,
		Bound:    a.workloads.Of,
		Socket:   self.AllowsSocket,
		Own:      self.Listens,
	})
	originator := originate.New(originate.Options{Stock: a.stock, Directories: a.opts.CredentialDirs, Log: a.log})
	a.outgoing = forward.New(forward.Options{
		Originator: originator, Decider: out, Dialer: out, Sink: a.recorder, Observer: a.observers.Observer(), Tracer: a.observers.Tracer(), Log: loglevel.Scope(a.log, scopeProxy), Limits: a.limits.Forward, Timeouts: a.opts.Limits.Timeouts, Rand: rand.Uint64, Locality: a.opts.Limits.Locality,
	})
	if len(a.opts.GatewaySelector) > 0 {
		a.incoming = ingress.New(ingress.Options{
			Originator: originator,
			Snapshot:   a.control.Snapshot,
			Resolver:   a.dns,
			Sink:       a.recorder,
			Observer:   a.observers.Observer(),
			Tracer:     a.observers.Tracer(),
			Log:        loglevel.Scope(a.log, scopeGateway),
			Limits:     a.limits.Forward,
			Timeouts:   a.opts.Limits.Timeouts,
			Locality:   a.opts.Limits.Locality,
			Rand:       rand.Uint64,
			Own:        self.Listens,

			Certificates: a.stock,
			Directories:  a.opts.CredentialDirs,
			Inherited: func(at netip.AddrPort) *net.TCPListener {
				return a.inherited.Listener(gatewaySocket, at)
			},
			InheritedUnix: func(path string) *net.UnixListener { return a.inherited.Unix(gatewaySocket, path) },
			SocketDir:     a.opts.GatewaySocketDir,
		})
	}
	return errors.Join(a.datapath.SetListeners(a.sockets.Ports()), a.limits.Tell(a.datapath.SetRoom))
}

// startPolicy fills the kernel's tables with the first snapshot. Tables that
// were adopted from an earlier run keep what is still right: flows of live
// workloads go on while this happens.
func (a *Agent) startPolicy(l control.Loaded) error {
	if n, err := a.remember(); err != nil {
		a.log.Warn("the learned addresses of the last run could not be restored; they are refused until their names are resolved again", "error", err)
	} else if n > 0 {
		a.log.Info("learned addresses restored", "count", n)
	}
	return a.control.Start(l, a.targets())
}

// tellWait is how long an end waits for the service manager to take what it is told.
const tellWait = time.Second

// Close releases what New made. Pinned state stays.
func (a *Agent) Close() error {
	defer a.manager.Close(tellWait)
	a.kubernetes.End()
	var err error
	if a.sockets != nil {
		a.sockets.Close()
	}
	a.inherited.Close()
	if a.datapath != nil {
		if a.begun.Saves() {
			err = a.remembered.Save()
		}
		err = errors.Join(err, a.datapath.Close())
	}
	a.begun.Closed()
	a.observers.Close()
	a.flowLog.Close(flowLogWait)
	if a.holder != nil {
		a.holder.Close()
	}
	return errors.Join(err, a.unlock())
}

// rollBack takes back what a start did that failed. After it only Close may be
// called.
func (a *Agent) rollBack() error {
	if a.datapath == nil {
		return a.begun.RollBack(nil)
	}
	return a.begun.RollBack(a.datapath.Rollback)
}
