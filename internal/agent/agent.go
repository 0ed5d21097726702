// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/egressd/egressd/dnsproxy"
	"github.com/egressd/egressd/egress"
	"github.com/egressd/egressd/ingress"
	"github.com/egressd/egressd/internal/forward"
	"github.com/egressd/egressd/internal/ipguard"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/policy/source"
)

// Numbers of the workloads in the kernel's tables.
const (
	workloadID uint32 = 1 // the captured cgroup
	ownID      uint32 = 2 // egressd itself
	servicesID uint32 = 3 // the node's own services
	probeID    uint32 = 4 // the daemon's probe of itself
)

// eventsKept is how many events "egressd flows" can look back on, beside what
// was denied.
const eventsKept = 8192

// Agent is a running egressd. Make one with New, run it with Run.
type Agent struct {
	opts      Options
	log       *slog.Logger
	lock      *os.File // of the state directory
	pinLock   *os.File
	datapath  *loader.Datapath
	current   current
	recorder  *recorder
	addresses ipguard.Addresses // of the node
	names     *dnsproxy.Names
	dns       *dnsproxy.Server
	outgoing  *forward.Core
	incoming  *ingress.Ingress
	sockets   *listeners
	devices   *deviceListeners
	status    *status
	watcher   *source.Watcher
	config    *configuration
	guards    guards
	took      Took // by reading the first policy
	capture   *capture
	workloads *workloads
	// attached says that this run attached the programs once.
	attached bool
	surfaces surfaces
	pins     pins
	life     life
	probe    *selfProbe
	// dropped counts the followers of events that did not read.
	dropped atomic.Uint64
	// fills is how full the kernel's tables are; to count is expensive.
	fills recently[map[string]loader.Fill]
	// captures says that the programs are attached, inStep that the kernel has
	// exactly what the snapshot says.
	captures, inStep bool
	// saved is names.Changes as it was when the file was written.
	saved uint64

	// unload is closed when somebody asked for everything to be removed.
	unload     chan struct{}
	unloadOnce sync.Once
}

// New loads the policy, the kernel programs and the listeners, but captures
// nothing yet. The caller must call Close, unless New fails.
func New(ctx context.Context, o Options) (*Agent, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	lock, err := lockState(o.StateDir)
	if err != nil {
		return nil, err
	}
	return newAgent(ctx, o, lock)
}

// newAgent is New with validated options and the lock of the state directory,
// which it takes over.
func newAgent(ctx context.Context, o Options, lock *os.File) (_ *Agent, err error) {
	a := &Agent{
		opts:     o,
		log:      o.Log,
		lock:     lock,
		recorder: newRecorder(o.Log),
		unload:   make(chan struct{}),
		config:   newConfiguration(o),
		life:     newLife(o),
	}
	a.devices = newDeviceListeners(o.Log)
	a.guards.names, a.guards.failed = map[int]string{}, map[string]string{}
	a.status = newStatus(a)
	defer func() {
		if err != nil {
			a.sayFailed()
			a.Close()
		}
	}()
	if a.capture, err = newCapture(o, loader.CanFollow); err != nil {
		return nil, err
	}
	for _, dir := range a.capture.named {
		o.warnDelegated(dir)
	}
	// Watching starts before reading, so that no change falls in between.
	a.watcher = source.NewWatcher(o.Config, o.Log)
	a.sayStart()
	if err := a.preparePins(); err != nil {
		return nil, err
	}
	if a.pinLock, err = loader.LockPins(o.PinDir); err != nil {
		return nil, err
	}
	own, err := exemptOwn(a.capture.named, o.PinDir)
	if err != nil {
		return nil, err
	}
	first, err := a.firstPolicy()
	if err != nil {
		return nil, err
	}
	if a.datapath, err = loader.Open(loader.Options{PinDir: o.PinDir, Renew: true, ByName: a.capture.byName}); err != nil {
		return nil, err
	}
	for name, state := range loader.Features() {
		if state != "yes" {
			o.Log.Warn("the kernel lacks a feature; see \"What is enforced\" in the README", "feature", name, "probe", state)
		}
	}
	var gates []netip.Addr
	if o.Interfaces {
		gates = openGates(o.Log)
	}
	if a.sockets, err = listen(ctx, o.Log, o.Interfaces, o.Guard.Workloads(), gates); err != nil {
		return nil, err
	}
	a.sockets.ports.Admin = a.opts.adminPort()
	if a.workloads, err = a.capturedWorkloads(); err != nil {
		return nil, err
	}
	a.workloads.own = own
	a.probe = newSelfProbe(a)
	if err := a.wire(); err != nil {
		return nil, err
	}
	if err := a.startPolicy(first); err != nil {
		return nil, err
	}
	return a, nil
}

// wire makes the rooms and connects them.
func (a *Agent) wire() error {
	if err := a.readAddresses(); err != nil {
		return err
	}
	guard := ipguard.NewLive(&a.addresses)
	a.names = dnsproxy.NewNames(a.datapath, &a.current, dnsproxy.NamesOptions{
		Guard: guard, InUse: a.liveAddresses, Log: a.log,
		Floor: a.opts.DNSMinTTL, Cap: a.opts.DNSMaxTTL, Grace: a.opts.DNSGrace,
	})
	a.dns = dnsproxy.New(dnsproxy.Config{
		Origins:   origins{a},
		Policies:  &a.current,
		Names:     a.names,
		Upstreams: func() []netip.AddrPort { return a.opts.DNSServers },
		Search:    a.opts.Search,
		SearchOf:  newSearches().of,
		Serves:    newResolvers(a.addresses.Has).serves,
		Denied:    a.opts.DNSDenied,
		Guard:     guard,
		Sink:      a.recorder,
		Log:       a.log,
	})
	out := egress.New(egress.Options{
		Policies: &a.current,
		Names:    a.names,
		Resolver: a.dns,
		Guard:    guard,
		Bound:    a.workloads.of,
		Rand:     rand.Uint64,
		Socket:   a.allowsSocket,
		Own:      a.own,
	})
	limits := forwardLimits(a.log)
	a.outgoing = forward.New(forward.Options{
		Decider: out, Dialer: out, Sink: a.recorder, Log: a.log, Limits: limits, Rand: rand.Uint64,
	})
	if len(a.opts.GatewaySelector) > 0 {
		a.incoming = ingress.New(ingress.Options{
			Snapshot: a.current.p.Load,
			Resolver: a.dns,
			Sink:     a.recorder,
			Log:      a.log,
			Limits:   limits,
			Rand:     rand.Uint64,
			Own:      a.own,
		})
	}
	return a.datapath.SetListeners(a.sockets.ports)
}

// startPolicy fills the kernel's tables with the first snapshot. Tables that
// were adopted from an earlier run keep what is still right: flows of live
// workloads go on while this happens.
func (a *Agent) startPolicy(l Loaded) error {
	a.took = l.Took
	a.current.p.Store(l.Snapshot)
	if n, err := a.restoreNames(); err != nil {
		a.log.Warn("learned addresses of the last run not restored", "error", err)
	} else if n > 0 {
		a.log.Info("learned addresses restored", "count", n)
	}
	return a.enforce(l)
}

// Run captures the workload and serves until ctx is done. It leaves the
// kernel side pinned; see Unload. ready is called once everything is in place.
func (a *Agent) Run(ctx context.Context, ready func()) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var serving sync.WaitGroup
	serve := func(f func() error) {
		serving.Go(func() {
			if err := f(); err != nil && ctx.Err() == nil {
				cancel(err)
			}
		})
	}
	serve(func() error { return a.datapath.Events(a.recordKernelEvent) })
	for _, ln := range a.sockets.proxy {
		serve(func() error { return a.outgoing.Serve(ctx, ln, a.identify) })
	}
	for i, udp := range a.sockets.dnsUDP {
		serve(func() error { return a.dns.Serve(ctx, udp, a.sockets.dnsTCP[i:i+1]) })
	}
	serve(func() error { a.names.Run(ctx); return nil })
	serve(func() error { a.dns.KeepResolved(ctx); return nil })
	a.followDevices(ctx, serve)
	serve(func() error { return a.watchAddresses(ctx, serve) })
	serve(func() error { a.housekeep(ctx); return nil })
	if a.incoming != nil {
		if err := a.incoming.Apply(a.current.p.Load()); err != nil {
			cancel(err)
		}
	}
	if a.opts.Interfaces {
		if err := a.serveInterfaces(ctx, serve); err != nil {
			cancel(err)
		}
	}
	if ctx.Err() == nil {
		if err := a.begin(); err != nil {
			cancel(err)
		} else {
			a.status.setReady(true)
			if a.opts.Interfaces {
				warnBesideDNS(a.log, besideSockets("/"))
			}
			if a.probe != nil {
				serve(func() error { a.probe.run(ctx); return nil })
			}
			a.sayReady()
			ready()
		}
	}
	if ctx.Err() == nil {
		serve(func() error { a.watcher.Run(ctx, a.changed); return nil })
		serve(func() error { a.reloadAsked(ctx); return nil })
		serve(func() error { a.settle(ctx); return nil })
		serve(func() error { return a.watchInterfaces(ctx) })
		if w := a.workloads.watcher; w != nil {
			serve(func() error { w.Run(ctx, a.rebind); return nil })
		}
	}
	watched, done := context.WithCancel(context.WithoutCancel(ctx))
	var watching sync.WaitGroup
	watching.Go(func() { a.watch(watched, ctx) })
	defer func() { done(); watching.Wait() }()
	select {
	case <-ctx.Done():
		a.sayStop(false)
	case <-a.unload:
		a.sayStop(true)
		a.surfaces.release()
		cancel(nil)
		if err := a.datapath.Unload(); err != nil {
			a.log.Error("unload", "error", err)
		}
		defer RemoveGates() // unload says what is wrong, by removing them again
	}
	a.stop()
	serving.Wait()
	a.recorder.flush(true)
	a.saveLastGood()
	if err := context.Cause(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// drainTime is the default of Options.DrainTime.
const drainTime = 5 * time.Second

func (a *Agent) stop() {
	a.status.setReady(false)
	ctx, cancel := context.WithTimeout(context.Background(), a.opts.DrainTime)
	defer cancel()
	if err := a.outgoing.Shutdown(ctx); err != nil {
		a.log.Warn("connections were cut after the drain time", "error", err)
	}
	if a.incoming != nil {
		if err := a.incoming.Shutdown(ctx); err != nil {
			a.log.Warn("gateway connections were cut after the drain time", "error", err)
		}
	}
	if err := a.datapath.DrainEvents(); err != nil {
		a.log.Warn("kernel events", "error", err)
	}
}

// begin attaches the programs. From here on the workload is under policy. That
// there is nothing yet to attach them to is no error.
func (a *Agent) begin() error {
	if err := a.bind(a.current.p.Load()); err != nil {
		return err
	}
	a.captures = true
	if err := a.datapath.SetReady(true); err != nil {
		return err
	}
	fresh, err := a.hold()
	if err != nil && !errors.Is(err, errNotThere) {
		return err
	}
	if err := a.guardInterfaces(); err != nil {
		return err
	}
	if fresh {
		a.endEarlier()
		a.tellFreed()
	}
	return nil
}

// An accepted connection takes its origin at once, so an old one belongs to
// nobody.
const (
	sweepInterval = 10 * time.Second
	originAge     = time.Minute
	// saveInterval is how much of what was learned a kill -9 may lose.
	saveInterval = time.Second
)

// housekeep sweeps original destinations and saves learned addresses.
func (a *Agent) housekeep(ctx context.Context) {
	sweep := time.NewTicker(sweepInterval)
	defer sweep.Stop()
	save := time.NewTicker(saveInterval)
	defer save.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.life.beats:
		case <-sweep.C:
			if _, err := a.datapath.SweepOrigins(originAge); err != nil {
				a.log.Warn("sweep of original destinations", "error", err)
			}
			a.keepGates()
			a.watchPins()
			if err := a.datapath.SweepFlows(a.recordKernelEvent); err != nil {
				a.log.Warn("sweep of the interfaces' flows", "error", err)
			}
		case <-save.C:
			a.recorder.flush(false)
			if err := a.saveNames(); err != nil {
				a.log.Warn("learned addresses not saved", "error", err)
			}
		}
	}
}

// Unload removes everything from the kernel: the workload is free again.
func (a *Agent) Unload() error { return a.datapath.Unload() }

// Close releases what New made. Pinned state stays.
func (a *Agent) Close() error {
	var err error
	if a.sockets != nil {
		a.sockets.close()
	}
	if a.datapath != nil {
		err = errors.Join(a.saveNames(), a.datapath.Close())
	}
	if a.pinLock != nil {
		err = errors.Join(err, a.pinLock.Close())
	}
	return errors.Join(err, a.lock.Close())
}
