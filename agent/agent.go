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
	"sync"
	"sync/atomic"
	"time"

	"github.com/egressd/egressd/agent/control"
	"github.com/egressd/egressd/dnsproxy"
	"github.com/egressd/egressd/egress"
	"github.com/egressd/egressd/forward"
	"github.com/egressd/egressd/ingress"
	"github.com/egressd/egressd/internal/handover"
	"github.com/egressd/egressd/internal/hold"
	"github.com/egressd/egressd/internal/ipguard"
	"github.com/egressd/egressd/internal/learned"
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
	pinLock   *loader.PinLock
	datapath  *loader.Datapath
	recorder  *recorder
	addresses ipguard.Addresses // of the node
	names     *learned.Names
	dns       *dnsproxy.Server
	nodeDNS   *nodeDNS
	outgoing  *forward.Core
	incoming  *ingress.Ingress
	sockets   *listeners
	devices   *deviceListeners
	status    *status
	watcher   *source.Watcher
	control   *control.Control
	guards    guards
	capture   *capture
	workloads *workloads
	// attached says that this run attached the programs once.
	attached bool
	surfaces surfaces
	limits   *limits
	pins     pins
	holding  *hold.Keeper
	life     life
	// begun is what a start that fails takes back.
	begun begun
	probe *selfProbe
	// dropped counts the followers of events that did not read.
	dropped atomic.Uint64
	// fills is how full the kernel's tables are; to count is expensive.
	fills recently[map[string]loader.Fill]
	// captures says that the programs are attached, and by this daemon.
	captures atomic.Bool
	// saved is names.Changes as it was when the file was written.
	saved uint64
	// binding is held while cgroups are looked for.
	binding sync.Mutex
	// inherited are sockets of an earlier daemon that nobody took yet.
	inherited *handover.Set
	// holder is the daemon that this one takes over from, nil: none. heirs are
	// those that are prepared to take over from this one; gone says that one has,
	// and the state directory is not this one's.
	holder *holder
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
	made := stateMade(o.StateDir)
	lock, h, set, err := lockOrReach(o)
	if err != nil {
		return nil, err
	}
	if h == nil {
		sweepLeft(o)
	}
	return newAgent(ctx, o, lock, made, h, set)
}

// newAgent is New with validated options and the lock of the state directory,
// which it takes over; made are the parts of that which this start has made. h is
// the daemon before, which lives, and set what it hands over.
func newAgent(ctx context.Context, o Options, lock *os.File, made []string, h *holder, set *handover.Set) (_ *Agent, err error) {
	a := &Agent{
		opts:     o,
		log:      o.Log,
		lock:     lock,
		recorder: newRecorder(o.Log),
		unload:   make(chan struct{}),
		control:  control.New(o.control()),
		life:     newLife(o),
		begun:    begun{state: made},
		holding:  hold.NewKeeper(o.Log),

		holder: h, inherited: set, heirs: make(chan *handover.Conn),
	}
	a.devices = newDeviceListeners(o.Log)
	a.guards.names, a.guards.failed = map[int]string{}, map[string]string{}
	a.status = newStatus(a)
	defer func() {
		if err != nil {
			err = errors.Join(a.notTaken(err), a.rollBack(), a.Close())
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
	own, err := exemptOwn(a.capture.named, o.PinDir, a.before())
	if err != nil {
		return nil, err
	}
	first, err := a.control.First(a.holder != nil)
	if err != nil {
		return nil, err
	}
	if a.datapath, err = loader.Open(loader.Options{PinDir: o.PinDir, Renew: true, Sizes: o.tableSizes(), ByName: a.capture.byName}); err != nil {
		return nil, err
	}
	sayMemory(o.Log, a.datapath)
	for name, state := range loader.Features() {
		if state != "yes" {
			o.Log.Warn("the kernel lacks a feature; docs/SECURITY-MODEL.md says what that opens", "feature", name, "probe", state)
		}
	}
	var gates []netip.Addr
	if o.Interfaces {
		gates = openGates(o.Log)
	}
	if err := a.fromManager(); err != nil {
		return nil, err
	}
	if a.sockets, err = listen(ctx, o.Log, o.Interfaces, o.Guard.Workloads(), gates, a.inherited); err != nil {
		return nil, err
	}
	a.sockets.ports.Admin = a.opts.adminPort()
	if a.workloads, err = a.capturedWorkloads(); err != nil {
		return nil, err
	}
	a.workloads.own, a.workloads.before = own, a.before()
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
	var err error
	if a.nodeDNS, err = newNodeDNS(a.opts, dnsproxy.NodeFiles, a.isOwnDNS); err != nil {
		return err
	}
	guard := ipguard.NewLive(&a.addresses)
	a.limits = newLimits(a.opts.Limits, a.log)
	names := learned.Options{
		Guard: guard, InUse: a.liveAddresses, Log: a.log,
		Floor: a.opts.DNSMinTTL, Cap: a.opts.DNSMaxTTL, Grace: a.opts.DNSGrace,
	}
	learnedBounds(&names, a.opts.Sizes.Addresses)
	a.names = learned.New(a.datapath, a.control, names)
	a.dns = dnsproxy.New(dnsproxy.Config{
		Origins:   origins{a},
		Policies:  a.control,
		Names:     a.names,
		Upstreams: a.nodeDNS.current(),
		Stale:     a.opts.DNSStale,
		SearchOf:  newSearches().of,
		Serves:    newResolvers(a.addresses.Has).serves,
		Denied:    a.opts.DNSDenied,
		Guard:     guard,
		Sink:      a.recorder,
		Log:       a.log,

		MaxInflight: a.limits.Queries, MaxPerWorkload: a.limits.QueriesEach,
		MaxConns: a.limits.Conns, MaxConnsPerWorkload: a.limits.ConnsEach,
	})
	out := egress.New(egress.Options{
		Policies: a.control,
		Names:    a.names,
		Resolver: a.dns,
		Guard:    guard,
		Bound:    a.workloads.of,
		Rand:     rand.Uint64,
		Socket:   a.allowsSocket,
		Own:      a.own,
	})
	a.outgoing = forward.New(a.limits.outgoing(a, out))
	if len(a.opts.GatewaySelector) > 0 {
		a.incoming = ingress.New(ingress.Options{
			Snapshot: a.control.Snapshot,
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
	return errors.Join(a.datapath.SetListeners(a.sockets.ports), a.tellRoom())
}

// startPolicy fills the kernel's tables with the first snapshot. Tables that
// were adopted from an earlier run keep what is still right: flows of live
// workloads go on while this happens.
func (a *Agent) startPolicy(l control.Loaded) error {
	if n, err := a.restoreNames(); err != nil {
		a.log.Warn("learned addresses of the last run not restored", "error", err)
	} else if n > 0 {
		a.log.Info("learned addresses restored", "count", n)
	}
	return a.control.Start(l, a.targets())
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
	if a.opts.Interfaces {
		warnBesideDNS(a.log, besideSockets("/"))
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
	living.Go(func() { a.nodeDNS.run(life, a.dns.SetUpstreams) })
	living.Go(func() { a.followHolder(life) })
	if w := a.workloads.watcher; w != nil {
		living.Go(func() { w.Run(life, a.rebind) })
	}
	shifts := []*shift{s}
	var h *heir
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
		h.conn.Close()
		<-h.ended
	}
	a.recorder.flush(true)
	a.control.SaveLastGood()
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
			if err = a.settleTakeover(); err == nil {
				return s, nil
			}
			a.endShift(s)
			s.answering.Wait()
		}
	}
	a.recorder.flush(true)
	err = errors.Join(a.notTaken(err), a.rollBack())
	a.leaveHolder()
	return nil, err
}

// notTaken is err as that of a daemon that does not take over, where it wanted to:
// what is there is that of the daemon which goes on.
func (a *Agent) notTaken(err error) error {
	if a.holder == nil {
		return err
	}
	a.letGo()
	return fmt.Errorf("no takeover, and the egressd that runs goes on, with what is %w: %w", loader.ErrInUse, err)
}

// finish ends the last shift.
func (a *Agent) finish(ctx context.Context, cancel context.CancelCauseFunc, s *shift, h *heir, unload bool) {
	switch {
	case h != nil:
		a.release()
		a.drain(nil)
		return
	case s == nil:
		a.shutDown(time.Now())
		return
	case unload:
		a.sayStop(true)
		a.surfaces.release()
		cancel(nil)
		a.life.forget(a)
		if err := a.datapath.Unload(); err != nil {
			a.log.Error("unload", "error", err)
		}
		defer RemoveGates() // unload says what is wrong, by removing them again
	default:
		a.sayStop(false)
	}
	if err := context.Cause(ctx); !unload && (err == nil || errors.Is(err, context.Canceled)) {
		a.drain(s)
		return
	}
	a.status.setReady(false)
	a.endShift(s)
	a.shutDown(time.Now().Add(a.opts.DrainTime))
}

// drainTime is the default of Options.DrainTime.
const drainTime = 5 * time.Second

// begin attaches the programs. From here on the workload is under policy. That
// there is nothing yet to attach them to is no error.
func (a *Agent) begin() error {
	if err := a.bind(a.control.Snapshot()); err != nil {
		return err
	}
	a.captures.Store(true)
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
			if err := a.tellRoom(); err != nil {
				a.log.Warn("the kernel was not told of the range of ports", "error", err)
			}
			a.keepGates()
			a.control.Keep()
			if err := a.datapath.SweepFlows(a.recordKernelEvent); err != nil {
				a.log.Warn("sweep of the interfaces' flows", "error", err)
			}
		case <-save.C:
			a.recorder.flush(false)
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
		a.sockets.close()
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
		a.holder.conn.Close()
	}
	return errors.Join(err, a.unlock())
}
