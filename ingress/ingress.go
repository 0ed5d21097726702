// SPDX-License-Identifier: Apache-2.0

// Package ingress is the incoming side of the forwarding core: it keeps the
// listeners that Istio Gateways ask for, and routes their requests by the
// VirtualServices bound to them. Only the listener differs from the egress
// side; the core is the same.
package ingress

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"

	"github.com/egressd/egressd/forward"
	"github.com/egressd/egressd/forward/limits"
	"github.com/egressd/egressd/forward/originate"
	"github.com/egressd/egressd/forward/session"
	"github.com/egressd/egressd/ingress/tlsserver"
	"github.com/egressd/egressd/internal/certs"
	"github.com/egressd/egressd/internal/dial"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/localsocket"
	"github.com/egressd/egressd/policy"
)

// Resolver finds the addresses of upstreams that are names. match is the host
// whose address rules apply, nil for Kubernetes Services.
type Resolver interface {
	ResolveFor(ctx context.Context, id policy.PolicyID, name string, match *policy.Host) ([]netip.Addr, error)
}

// Options are what an Ingress works with. Snapshot gives the newest snapshot,
// nil before the first.
type Options struct {
	Snapshot func() *policy.Snapshot
	Resolver Resolver
	// Originator is the core's.
	Originator *originate.Originator
	Sink       flow.Sink
	// Observer and Tracer are the core's.
	Observer flow.Observer
	Tracer   session.Tracer
	Log      *slog.Logger
	// Limits are those of the egress side, which the listeners share; nil:
	// some of their own.
	Limits *limits.Limits
	// Timeouts are the core's.
	Timeouts forward.Timeouts
	// Locality is where the node is; forward.Options.
	Locality string
	Rand     func() uint64
	// Certificates has what servers terminate TLS with; nil: there is none.
	Certificates tlsserver.Materials
	// Directories are where files of private keys may be that Gateways name.
	Directories []string
	// Own says where egressd itself listens: nothing is dialled there.
	Own dial.Own
	// Inherited returns the listening socket that an earlier daemon left at an
	// address; nil: there is none, or there are none at all.
	Inherited func(netip.AddrPort) *net.TCPListener
	// InheritedUnix is Inherited for the sockets of paths.
	InheritedUnix func(path string) *net.UnixListener
	// SocketDir is the directory below which Gateways may have unix sockets; "": nowhere.
	SocketDir string
}

// Ingress is the set of gateway listeners. It implements forward.Decider and
// forward.Dialer for its core.
type Ingress struct {
	o       Options
	core    *forward.Core
	servers *tlsserver.ServerConfigs

	mu        sync.Mutex
	listeners map[place]*listener
	sockets   map[string]*localsocket.LocalListener // by path, also while they are not served
	failed    map[place]string                      // why what is asked for is not open
	serving   sync.WaitGroup
	closed    bool
	ends      []*policy.GatewayServer // that terminate TLS
}

// listener is one open gateway port.
type listener struct {
	ln     net.Listener
	cancel context.CancelFunc
}

var (
	_ forward.Decider    = (*Ingress)(nil)
	_ forward.Terminator = (*Ingress)(nil)
	_ forward.Dialer     = (*Ingress)(nil)
)

// New makes an Ingress without listeners; Apply opens them.
func New(o Options) *Ingress {
	if o.Certificates == nil {
		o.Certificates = none{}
	}
	in := &Ingress{o: o, listeners: map[place]*listener{}, sockets: map[string]*localsocket.LocalListener{}, servers: tlsserver.New(o.Certificates, o.Directories)}
	in.core = forward.New(forward.Options{Originator: o.Originator, Decider: in, Dialer: in, Sink: o.Sink, Observer: o.Observer, Tracer: o.Tracer, Log: o.Log, Limits: o.Limits, Timeouts: o.Timeouts, Rand: o.Rand, Locality: o.Locality, Share: true})
	return in
}

// place is where a listener is: an address and port, or a unix socket.
type place struct {
	at   netip.AddrPort
	unix string
}

func (p place) String() string {
	if p.unix != "" {
		return "unix:" + p.unix
	}
	return p.at.String()
}

// bindOf is where a listener is bound to: [::] takes IPv4 as well.
func bindOf(l *policy.GatewayListener) place {
	if l.Unix != "" {
		return place{unix: l.Unix}
	}
	a := l.Bind
	if !a.IsValid() {
		a = netip.IPv6Unspecified()
	}
	return place{at: netip.AddrPortFrom(a, l.Port)}
}

// Apply opens the listeners that s asks for and closes those that it no
// longer does. Listeners that stay are not touched. A port that cannot be
// opened is an error; the others are opened all the same.
func (in *Ingress) Apply(s *policy.Snapshot) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closed {
		return nil
	}
	want := map[place]bool{}
	in.failed = map[place]string{}
	var errs []error
	for _, l := range s.Listeners() {
		a := bindOf(l)
		want[a] = true
		if in.listeners[a] != nil {
			continue
		}
		switch err := in.open(a); {
		case err == nil:
		case l.Unix != "":
			// Others are served all the same: whoever wrote this Gateway does not say
			// what is at that path.
			in.failed[a] = err.Error()
			in.o.Log.Error("a Gateway's unix socket is not open; nobody comes in there, and everything else is served", "socket", l.Unix, "gateway", l.Name, "error", err)
		default:
			errs = append(errs, fmt.Errorf("gateway port %d: %w", l.Port, err))
		}
	}
	for a, l := range in.listeners {
		if !want[a] {
			l.cancel()
			l.ln.Close()
			delete(in.listeners, a)
			in.remove(a.unix)
			in.o.Log.Info("gateway listener closed", "address", a.String())
		}
	}
	var ends []*policy.GatewayServer
	for _, l := range s.Listeners() {
		ends = append(ends, l.Terminates()...)
	}
	in.servers.Keep(ends)
	in.ends = ends
	for _, text := range in.skipped() {
		in.o.Log.Warn("a Gateway server has no certificate that can be used; its connections are denied until it has, those of others are not affected", "server", text)
	}
	in.core.Recheck()
	return errors.Join(errs...)
}

// skipped are the servers that cannot be served, and why. in.mu is held.
func (in *Ingress) skipped() (out []string) {
	for p, why := range in.failed {
		out = append(out, fmt.Sprintf("%s is not open: %s", p, why))
	}
	slices.Sort(out)
	for _, server := range in.ends {
		if _, err := in.servers.Config(server); err != nil {
			at := place{at: netip.AddrPortFrom(server.Bind, server.Port), unix: server.Unix}
			out = append(out, fmt.Sprintf("%s: server %q of gateway %s/%s is not served: %v", at.served(), server.Name, server.Ref.Namespace, server.Ref.Name, err))
		}
	}
	return out
}

// Skipped says what the policy asks for and is not served, one line each.
func (in *Ingress) Skipped() []string {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.skipped()
}

// none has no certificates.
type none struct{}

func (none) Material(certs.Where) (*certs.Material, error) {
	return nil, fmt.Errorf("this node reads no certificates: %w", certs.ErrMissing)
}

func (in *Ingress) open(p place) error {
	if p.unix != "" {
		return in.openSocket(p)
	}
	a := p.at
	ctx, cancel := context.WithCancel(context.Background())
	any4 := netip.AddrPortFrom(netip.IPv4Unspecified(), a.Port())
	if in.o.Inherited != nil {
		ln := in.o.Inherited(a)
		if ln == nil && a.Addr() == netip.IPv6Unspecified() {
			ln = in.o.Inherited(any4)
		}
		if ln != nil {
			in.serve(ctx, cancel, p, ln)
			return nil
		}
	}
	lc := net.ListenConfig{Control: dial.ListenerKeepAlive, KeepAlive: -1}
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(ctx, "tcp", a.String())
	if err != nil && a.Addr().Is6() && a.Addr().IsUnspecified() {
		// No IPv6 on this machine.
		ln, err = lc.Listen(ctx, "tcp4", any4.String())
	}
	if err != nil {
		cancel()
		return err
	}
	in.serve(ctx, cancel, p, ln)
	return nil
}

func (in *Ingress) serve(ctx context.Context, cancel context.CancelFunc, a place, ln net.Listener) {
	in.listeners[a] = &listener{ln: ln, cancel: cancel}
	serve := func() error { return in.core.Serve(ctx, ln, in.identify) }
	if u, ok := ln.(*net.UnixListener); ok {
		serve = func() error {
			return in.core.ServeUnix(ctx, u, func() (forward.Conn, error) { return in.identifyAt(a.unix), nil })
		}
	}
	in.serving.Go(func() {
		if err := serve(); err != nil && ctx.Err() == nil {
			in.o.Log.Error("a gateway listener failed; its port is closed until the policy changes or egressd restarts", "address", a.String(), "error", err)
		}
	})
	in.o.Log.Info("gateway listener open", "address", addressOf(ln))
}

// Listeners calls f with each open listener.
func (in *Ingress) Listeners(f func(syscall.Conn)) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, l := range in.listeners {
		if c, ok := l.ln.(syscall.Conn); ok {
			f(c)
		}
	}
}

// Pause closes the listeners until Resume, after which Apply opens them again;
// connections go on.
func (in *Ingress) Pause() {
	in.mu.Lock()
	in.closed = true
	in.closeAll()
	in.mu.Unlock()
	in.serving.Wait()
}

// Resume lets Apply open listeners again.
func (in *Ingress) Resume() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.closed = false
}

func (in *Ingress) closeAll() {
	for a, l := range in.listeners {
		l.cancel()
		l.ln.Close()
		delete(in.listeners, a)
	}
}

// Linger lets connections end as they become idle; see forward.Core.
func (in *Ingress) Linger() { in.core.Linger() }

// Idle says whether there is no connection.
func (in *Ingress) Idle() bool { return in.core.Idle() }

// identify describes a connection from outside: its destination is the
// listener's own address.
func (in *Ingress) identify(c *net.TCPConn) (forward.Conn, error) {
	local := c.LocalAddr().(*net.TCPAddr).AddrPort()
	remote := c.RemoteAddr().(*net.TCPAddr).AddrPort()
	out := forward.Conn{
		Dst:      netip.AddrPortFrom(local.Addr().Unmap(), local.Port()),
		Src:      netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port()),
		Layer:    flow.Ingress,
		Workload: "gateway",
		Policy:   policy.DefaultPolicy,
	}
	in.placed(&out)
	return out, nil
}

// placed notes what stands before the listener.
func (in *Ingress) placed(c *forward.Conn) {
	if l := in.listener(c); l != nil {
		c.TrustedProxies, c.Proxied = l.Topology.TrustedProxies, l.Topology.ProxyProtocol
	}
}

// Shutdown closes the listeners and drains the connections until ctx is done.
func (in *Ingress) Shutdown(ctx context.Context) error {
	in.mu.Lock()
	in.closed = true
	in.closeAll()
	in.mu.Unlock()
	err := in.core.Shutdown(ctx)
	in.serving.Wait()
	return err
}

// Stats returns the counts of this moment.
func (in *Ingress) Stats() forward.Stats { return in.core.Stats() }

// Addresses lists what is being listened on.
func (in *Ingress) Addresses() []string {
	in.mu.Lock()
	defer in.mu.Unlock()
	var out []string
	for _, l := range in.listeners {
		out = append(out, addressOf(l.ln))
	}
	return out
}
