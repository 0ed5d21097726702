// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/egressd/egressd/agent/admin"
	"github.com/egressd/egressd/agent/earlier"
	"github.com/egressd/egressd/agent/events"
	"github.com/egressd/egressd/agent/exec"
	"github.com/egressd/egressd/agent/iface"
	"github.com/egressd/egressd/agent/listen"
	"github.com/egressd/egressd/agent/resolve"
	"github.com/egressd/egressd/agent/selfprobe"
	"github.com/egressd/egressd/agent/state"
	"github.com/egressd/egressd/agent/takeover"
	"github.com/egressd/egressd/agent/teardown"
	"github.com/egressd/egressd/agent/workload"
	"github.com/egressd/egressd/dnsproxy"
	"github.com/egressd/egressd/egress"
	"github.com/egressd/egressd/forward"
	"github.com/egressd/egressd/ingress"
	"github.com/egressd/egressd/internal/gate"
	"github.com/egressd/egressd/internal/handover"
	"github.com/egressd/egressd/internal/hold"
	"github.com/egressd/egressd/internal/ipguard"
	"github.com/egressd/egressd/internal/learned"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/source"
)

// Agent is a running egressd. Make one with New, run it with Run.
type Agent struct {
	opts       Options
	log        *slog.Logger
	lock       *os.File // of the state directory
	pinLock    *loader.PinLock
	datapath   *loader.Datapath
	current    current
	recorder   *events.Recorder
	addresses  ipguard.Addresses // of the node
	names      *learned.Names
	dns        *dnsproxy.Server
	nodeDNS    *resolve.Follower
	outgoing   *forward.Core
	incoming   *ingress.Ingress
	sockets    *listen.Set
	devices    *listen.Devices
	status     *status
	watcher    *source.Watcher
	config     *configuration
	guards     *iface.Guards
	took       Took // by reading the first policy
	capture    *workload.Capture
	workloads  *workload.Binding
	earlier    *earlier.Earlier
	bindFailed error // of the last look for cgroups that came or went
	surfaces   admin.Surfaces
	limits     *limits
	pins       pins
	holding    *hold.Keeper
	life       life
	// begun is what a start that fails takes back.
	begun begun
	probe *selfprobe.Probe
	// fills is how full the kernel's tables are; to count is expensive.
	fills admin.Recently[map[string]loader.Fill]
	// captures says that the programs are attached, and by this daemon; inStep
	// that the kernel has exactly what the snapshot says.
	captures atomic.Bool
	inStep   bool
	// emptyInForce says that the policy in force has no objects.
	emptyInForce bool
	// saved is names.Changes as it was when the file was written.
	saved   uint64
	unsaved unsaved
	// binding is held while cgroups are looked for.
	binding sync.Mutex
	// inherited are sockets of an earlier daemon that nobody took yet.
	inherited *handover.Set
	// holder is the daemon that this one takes over from, nil: none. heirs are
	// those that are prepared to take over from this one; gone says that one has,
	// and the state directory is not this one's.
	holder *takeover.Holder
	heirs  chan *handover.Conn
	gone   atomic.Bool

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
	made := state.Made(o.StateDir)
	lock, h, set, err := takeover.LockOrReach(o.StateDir, o.Version, o.Takeover, o.Log)
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
func newAgent(ctx context.Context, o Options, lock *os.File, made []string, h *takeover.Holder, set *handover.Set) (_ *Agent, err error) {
	a := &Agent{
		opts:     o,
		log:      o.Log,
		lock:     lock,
		recorder: events.NewRecorder(o.Log),
		unload:   make(chan struct{}),
		config:   newConfiguration(o),
		life:     newLife(o),
		begun:    begun{state: made},
		holding:  hold.NewKeeper(o.Log),

		holder: h, inherited: set, heirs: make(chan *handover.Conn),
	}
	a.devices = listen.NewDevices(o.Log)
	a.status = newStatus(a)
	defer func() {
		if err != nil {
			err = errors.Join(a.notTaken(err), a.rollBack(), a.Close())
		}
	}()
	if a.capture, err = workload.NewCapture(workload.CaptureOptions{Cgroups: o.Cgroups, Follow: o.Daemon, Delegated: o.Delegated, Log: o.Log}, loader.CanFollow); err != nil {
		return nil, err
	}
	for _, dir := range a.capture.Named {
		workload.WarnDelegated(o.Log, dir)
	}
	// Watching starts before reading, so that no change falls in between.
	a.watcher = source.NewWatcher(o.Config, o.Log)
	a.sayStart()
	if err := a.begun.look(o.PinDir); err != nil {
		return nil, err
	}
	if err := a.preparePins(); err != nil {
		return nil, err
	}
	if err := a.lockPins(); err != nil {
		return nil, err
	}
	if err := a.begun.adopt(o.PinDir); err != nil {
		return nil, err
	}
	own, err := workload.ExemptOwn(a.capture.Named, o.PinDir, a.before())
	if err != nil {
		return nil, err
	}
	first, err := a.firstPolicy()
	if err != nil {
		return nil, err
	}
	if a.datapath, err = loader.Open(loader.Options{PinDir: o.PinDir, Renew: true, Sizes: o.tableSizes(), ByName: a.capture.ByName}); err != nil {
		return nil, err
	}
	sayMemory(o.Log, a.datapath)
	for name, state := range loader.Features() {
		if state != "yes" {
			o.Log.Warn("the kernel lacks a feature; docs/SECURITY-MODEL.md says what that opens", "feature", name, "probe", state)
		}
	}
	var gates []netip.Addr
	if o.Daemon {
		gates = listen.OpenGates(o.Log)
	}
	if err := a.fromManager(); err != nil {
		return nil, err
	}
	if a.sockets, err = listen.Open(ctx, listen.Options{
		Fixed: o.Daemon, Transparent: o.Guard.Workloads(), Gates: gates, From: a.inherited, Admin: o.adminPort(), Log: o.Log,
	}); err != nil {
		return nil, err
	}
	if a.workloads, err = workload.NewBinding(a.capture, a.datapath, workload.Options{
		Name: o.Workload, Mode: o.Mode, Described: o.Daemon, Services: o.NodeServices, Own: own, Before: a.before(),
		More: func(table map[uint64]loader.Workload) { a.probe.Bind(table) }, Log: o.Log,
	}); err != nil {
		return nil, err
	}
	a.guards = iface.New(iface.Options{
		Choice: o.Guard, Workload: func() loader.Workload { return a.workloads.NodeWorkload(a.current.p.Load()) }, Datapath: a.datapath, Log: o.Log,
	})
	if o.Daemon {
		a.probe = selfprobe.New(o.Probe, selfprobe.Daemon{
			At: a.capture.At, Sockets: a.sockets, Workloads: a.workloads, Log: o.Log,
			Bind: a.bindAgain, Well: func() { _ = a.outgoing.Stats() },
		})
	}
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
	var err error
	if a.nodeDNS, err = resolve.Follow(a.opts.nodeDNS(a.isOwnDNS)); err != nil {
		return err
	}
	guard := ipguard.NewLive(&a.addresses)
	a.limits = newLimits(a.opts.Limits, a.log)
	names := learned.Options{
		Guard: guard, InUse: func() (map[netip.Addr]bool, error) { return a.earlier.LiveAddresses() }, Log: a.log,
		Floor: a.opts.DNSMinTTL, Cap: a.opts.DNSMaxTTL, Grace: a.opts.DNSGrace,
	}
	learnedBounds(&names, a.opts.Sizes.Addresses)
	a.names = learned.New(a.datapath, &a.current, names)
	a.earlier = earlier.New(earlier.Options{
		Capture: a.capture, Workloads: a.workloads, Datapath: a.datapath, Policies: &a.current, Names: a.names, Sink: a.recorder, Log: a.log,
	})
	a.dns = dnsproxy.New(dnsproxy.Config{
		Origins:   origins{a},
		Policies:  &a.current,
		Names:     a.names,
		Upstreams: a.nodeDNS.Current(),
		Stale:     a.opts.DNSStale,
		SearchOf:  newSearches().of,
		Serves:    resolve.NewServers(a.addresses.Has).Serves,
		Denied:    a.opts.DNSDenied,
		Guard:     guard,
		Sink:      a.recorder,
		Log:       a.log,

		MaxInflight: a.limits.Queries, MaxPerWorkload: a.limits.QueriesEach,
		MaxConns: a.limits.Conns, MaxConnsPerWorkload: a.limits.ConnsEach,
	})
	out := egress.New(egress.Options{
		Policies: &a.current,
		Names:    a.names,
		Resolver: a.dns,
		Guard:    guard,
		Bound:    a.workloads.Of,
		Rand:     rand.Uint64,
		Socket:   a.allowsSocket,
		Own:      a.own,
	})
	a.outgoing = forward.New(a.limits.outgoing(a, out))
	if len(a.opts.GatewaySelector) > 0 {
		a.incoming = ingress.New(ingress.Options{
			Snapshot: a.current.p.Load,
			Resolver: a.dns,
			Sink:     a.recorder,
			Log:      a.log,
			Limits:   a.limits.forward,
			Timeouts: a.opts.Limits.timeouts(),
			Rand:     rand.Uint64,
			Own:      a.own,
			Inherited: func(at netip.AddrPort) *net.TCPListener {
				return a.inherited.Listener(gatewaySocket, at)
			},
		})
	}
	return errors.Join(a.datapath.SetListeners(a.sockets.Ports()), a.tellRoom())
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

// Run captures the workload and serves until ctx is done, or another daemon has
// taken over, and what was open then has ended. It leaves the kernel side
// pinned; see Unload. ready is called once everything is in place.
func (a *Agent) Run(ctx context.Context, ready func()) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s, err := a.start(ctx, cancel)
	if err != nil {
		return err
	}
	a.begun.done = true
	if a.opts.Daemon {
		resolve.WarnBeside(a.log, resolve.Beside("/"))
	}
	a.sayReady()
	ready()
	// Connections are judged by the files until the last has ended.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	var living sync.WaitGroup
	defer func() { end(); living.Wait() }()
	living.Go(func() { a.watch(life, ctx) })
	living.Go(func() { a.watcher.Run(life, a.changed) })
	living.Go(func() { a.reloadAsked(life) })
	living.Go(func() { a.nodeDNS.Run(life, a.dns.SetUpstreams) })
	living.Go(func() { a.followHolder(life) })
	living.Go(func() { a.workloads.Watch(life, a.rebind) })
	shifts := []*shift{s}
	var h *takeover.Heir
	unload := false
	for serving := true; serving; {
		select {
		case <-ctx.Done():
			serving = false
		case <-a.unload:
			unload, serving = true, false
		case c := <-a.heirs:
			if s, h, err = a.handOver(ctx, c, s, cancel); err != nil {
				cancel(err)
			}
			if s != nil {
				shifts = append(shifts, s)
			}
			serving = h == nil
		}
	}
	a.finish(ctx, cancel, s, h, unload)
	for _, s := range shifts {
		s.answering.Wait()
	}
	if h != nil {
		h.Leave()
	}
	a.recorder.Flush(true)
	a.saveLastGood()
	if err := context.Cause(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// start begins the first shift, in the place of the daemon before if there is
// one that lives. What a start did that fails is taken back before that one goes on.
func (a *Agent) start(ctx context.Context, fail context.CancelCauseFunc) (*shift, error) {
	err := a.quiesce()
	if err == nil {
		var s *shift
		if s, err = a.beginShift(ctx, fail); err == nil {
			if a.holder != nil {
				err = a.holder.Settle()
			}
			if err == nil {
				return s, nil
			}
			a.endShift(s)
			s.answering.Wait()
		}
	}
	a.recorder.Flush(true)
	err = errors.Join(a.notTaken(err), a.rollBack())
	if a.holder != nil {
		a.holder.Leave()
	}
	return nil, err
}

// notTaken is err as that of a daemon that does not take over, where it wanted to:
// what is there is that of the daemon which goes on.
func (a *Agent) notTaken(err error) error {
	if a.holder == nil {
		return err
	}
	a.gone.Store(true)
	return fmt.Errorf("no takeover, and the egressd that runs goes on, with what is %w: %w", loader.ErrInUse, err)
}

// finish ends the last shift.
func (a *Agent) finish(ctx context.Context, cancel context.CancelCauseFunc, s *shift, h *takeover.Heir, unload bool) {
	switch {
	case h != nil:
		a.release()
		a.drain(nil)
		return
	case s == nil:
		a.shutDown(time.Now())
		return
	case unload:
		a.unloadAll(cancel, s)
		return
	default:
		a.sayStop(false)
	}
	if err := context.Cause(ctx); err == nil || errors.Is(err, context.Canceled) {
		a.drain(s)
		return
	}
	a.stop(s)
}

// stop ends the last shift and what is open, within the drain time.
func (a *Agent) stop(s *shift) {
	a.status.setReady(false)
	a.endShift(s)
	a.shutDown(time.Now().Add(a.opts.DrainTime))
}

// unloadAll opens all traffic, and ends the last shift. What unload, the command,
// removes when this daemon has ended is left to that.
func (a *Agent) unloadAll(cancel context.CancelCauseFunc, s *shift) {
	a.sayStop(true)
	a.surfaces.Release()
	cancel(nil)
	a.life.forget(a)
	stop := sync.OnceFunc(func() { a.stop(s) })
	err := teardown.Teardown{
		Detach: a.datapath.Unload,
		Ended:  func() error { stop(); return nil },
		Gates:  gate.Remove,
	}.Run()
	if err != nil {
		a.log.Error("not all could be removed; \"egressd unload\" says what is left, and removes it", "error", err)
	}
	stop()
}

// drainTime is the default of Options.DrainTime.
const drainTime = 5 * time.Second

// begin attaches the programs. From here on the workload is under policy. That
// there is nothing yet to attach them to is no error.
func (a *Agent) begin() error {
	if err := a.bind(a.current.p.Load()); err != nil {
		return err
	}
	a.captures.Store(true)
	if err := a.datapath.SetReady(true); err != nil {
		return err
	}
	fresh, err := a.capture.Hold(a.datapath.Attach)
	if err != nil && !errors.Is(err, workload.ErrNotThere) {
		return err
	}
	if err := a.guards.Begin(); err != nil {
		return err
	}
	if fresh {
		a.earlier.End()
		a.earlier.TellFreed()
	}
	return nil
}

// bind tells the kernel which cgroup is which workload; nil: by the snapshot of the
// time before.
func (a *Agent) bind(s *policy.Snapshot) error { return a.workloads.Bind(s) }

// regard tells the kernel of guarded interfaces that their workload has another
// policy.
func (a *Agent) regard() { a.guards.Regard() }

// bindAgain looks for cgroups that came.
func (a *Agent) bindAgain() error {
	a.binding.Lock()
	defer a.binding.Unlock()
	return a.bind(nil)
}

// rebind looks for cgroups that came or went.
func (a *Agent) rebind() {
	a.binding.Lock()
	defer a.binding.Unlock()
	if !a.captures.Load() {
		return
	}
	err := a.bind(nil)
	if was := a.bindFailed; err != nil && (was == nil || !sameCause(was, err)) {
		a.log.Error("workloads could not be told apart; new ones are under the policy of the node; it is tried again every two seconds", "error", err)
	}
	a.bindFailed = err
	if fresh, _ := a.capture.Hold(a.datapath.Attach); fresh { // an error is said there, and by the status
		a.earlier.End()
	}
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
			if err := a.tellRoom(); err != nil {
				a.log.Warn("the kernel was not told of the range of ports", "error", err)
			}
			a.sockets.KeepGates(listen.NodeGates{}, a.datapath.SetListeners)
			a.keepPolicy()
			if err := a.datapath.SweepFlows(a.recordKernelEvent); err != nil {
				a.log.Warn("sweep of the interfaces' flows", "error", err)
			}
		case <-save.C:
			a.recorder.Flush(false)
			a.keepNames()
		}
	}
}

// Unload removes everything from the kernel: the workload is free again.
func (a *Agent) Unload() error { return a.datapath.Unload() }

// Close releases what New made. Pinned state stays.
func (a *Agent) Close() error {
	defer a.life.manager.Close(tellWait)
	var err error
	if a.sockets != nil {
		a.sockets.Close()
	}
	a.inherited.Close()
	if a.datapath != nil {
		if a.begun.saves() {
			err = a.saveNames()
		}
		err = errors.Join(err, a.datapath.Close())
	}
	a.begun.closed(a.opts)
	if a.holder != nil {
		a.holder.Close()
	}
	return errors.Join(err, a.unlock())
}
