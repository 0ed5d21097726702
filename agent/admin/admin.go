// SPDX-License-Identifier: Apache-2.0

// Package admin opens the interfaces of a daemon: the admin socket, whose visitors
// the kernel names, and the ports for status, metrics and readiness.
package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/agent/state"
	"github.com/egressd/egressd/internal/connlimit"
	"github.com/egressd/egressd/internal/link"
	"github.com/egressd/egressd/internal/portholder"
)

// Bounds of the interfaces. Who opens more connections has the oldest closed.
const (
	MaxConns = 64 // of one listener
	// adminReserve are descriptors that are kept for the admin socket: unload
	// and status must work when everything else has run out of them.
	adminReserve = 16
	headerWait   = 5 * time.Second
	// WriteWait is how long an answer may take, and one event for a follower.
	WriteWait = 10 * time.Second
	// bindAgain is how often a taken port of an interface is tried again.
	bindAgain = 5 * time.Second
)

// Options say what is served where.
type Options struct {
	// StateDir is where the admin socket is, and Group may read there; 0: only root
	// may.
	StateDir string
	Group    uint32
	// Change is served at the admin socket, Read at AdminAddress, Status at
	// StatusAddress and Health at HealthAddress. Empty addresses are none.
	Change, Read, Status, Health               http.Handler
	AdminAddress, StatusAddress, HealthAddress string
	Log                                        *slog.Logger
}

// Surfaces are the interfaces of the daemon that are open.
type Surfaces struct {
	mu     sync.Mutex
	limits map[string]*connlimit.Listener // by name
}

// Closed is how many connections were closed to make room, by interface.
func (s *Surfaces) Closed() map[string]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]uint64{}
	for name, l := range s.limits {
		name, _, _ = strings.Cut(name, " ")
		out[name] += l.Closed()
	}
	return out
}

// Release gives up the reserve of descriptors.
func (s *Surfaces) Release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.limits {
		l.Release(adminReserve)
	}
}

func (s *Surfaces) limit(name string, ln net.Listener, reserve int) net.Listener {
	l := connlimit.New(ln, MaxConns, reserve)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.limits == nil {
		s.limits = map[string]*connlimit.Listener{}
	}
	s.limits[name] = l
	return l
}

// Serve opens the admin socket and, when it is asked for, port, the
// status and metrics port and the readiness port. A port that somebody else has
// is opened when it is free: nobody can keep the daemon from starting with it.
func (s *Surfaces) Serve(ctx context.Context, serve func(func() error), o Options) error {
	socket, err := o.socket()
	if err != nil {
		return fmt.Errorf("open the admin socket: %w", err)
	}
	admin := s.limit("socket", peers{socket, os.Getpid()}, adminReserve)
	serve(func() error { return HTTP(ctx, admin, onlyFor(o.Group, o.Change)) })
	for _, i := range []struct {
		name, address string
		handler       http.Handler
	}{
		{"admin", o.AdminAddress, o.Read},
		{"status", o.StatusAddress, o.Status},
		{"health", o.HealthAddress, o.Health},
	} {
		if i.address == "" {
			continue
		}
		addrs, err := Addresses(i.address)
		if err != nil {
			return err
		}
		for _, addr := range addrs {
			h := i.handler
			if i.name == "admin" && OnLoopback([]string{addr}) {
				h = onlyOwners(o.Group, h)
			}
			if err := s.serveAt(ctx, serve, o.Log, i.name, addr, h); err != nil {
				return err
			}
		}
	}
	return nil
}

// socket opens the socket for root and the admin group.
func (o *Options) socket() (net.Listener, error) {
	path := filepath.Join(o.StateDir, state.AdminSocket)
	// The lock on the state directory says that nobody listens there.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	socket, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	mode, group := os.FileMode(0o600), int(o.Group)
	if group != 0 {
		mode = 0o660
		o.letIn(group)
	}
	if err := errors.Join(os.Chown(path, -1, group), os.Chmod(path, mode)); err != nil {
		return nil, errors.Join(err, socket.Close())
	}
	return socket, nil
}

// letIn lets a group reach what it may open in the state directory, if that
// is as egressd makes it: others may have chosen its mode with a purpose.
func (o *Options) letIn(group int) {
	info, err := os.Stat(o.StateDir)
	if err == nil && info.Mode().Perm() == 0o700 {
		if err = os.Chown(o.StateDir, -1, group); err == nil {
			err = os.Chmod(o.StateDir, 0o710)
		}
	}
	if err != nil {
		o.Log.Warn("the state directory could not be opened to the admin group; its members cannot use the admin socket", "directory", o.StateDir, "error", err)
	}
}

// serveAt serves one address, now or, if somebody else has it, later.
func (s *Surfaces) serveAt(ctx context.Context, serve func(func() error), log *slog.Logger, name, addr string, h http.Handler) error {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(ctx, "tcp", addr)
	if err != nil && !errors.Is(err, unix.EADDRINUSE) {
		return fmt.Errorf("open the %s interface: %w", name, err)
	}
	if ln == nil {
		log.Warn("an HTTP interface is not available, because another process has its port; traffic is not affected, and egressd listens there as soon as the port is free",
			"interface", name, "address", addr, "holder", portholder.Name("tcp", Port(addr)))
	}
	serve(func() error {
		for again := time.NewTicker(bindAgain); ln == nil; {
			select {
			case <-ctx.Done():
				again.Stop()
				return nil
			case <-again.C:
				ln, _ = lc.Listen(ctx, "tcp", addr) // it was said that it is taken
			}
		}
		// A page that a browser shows may have its name point here.
		if at, err := netip.ParseAddrPort(ln.Addr().String()); err == nil && at.Addr().IsLoopback() {
			h = loopbackOnly(h)
		}
		return HTTP(ctx, s.limit(name+" "+addr, ln, 0), h)
	})
	return nil
}

// Port is the port of ADDRESS:PORT; 0: it has none.
func Port(addr string) uint16 {
	_, port, _ := net.SplitHostPort(addr)
	n, _ := strconv.ParseUint(port, 10, 16)
	return uint16(n)
}

// Addresses reads the address of an interface: ADDRESS:PORT,
// localhost:PORT for loopback of each family that the machine has, or :PORT
// for all addresses.
func Addresses(s string) ([]string, error) {
	host, port, err := net.SplitHostPort(s)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return nil, fmt.Errorf("%q is not ADDRESS:PORT, localhost:PORT or :PORT", s)
	}
	switch host {
	case "localhost":
		var out []string
		for _, lo := range link.Loopbacks() {
			out = append(out, net.JoinHostPort(lo.String(), port))
		}
		return out, nil
	case "":
		return []string{s}, nil
	}
	if _, err := netip.ParseAddr(host); err != nil {
		return nil, fmt.Errorf("%q: write the address itself, localhost, or nothing before the colon for all addresses", s)
	}
	return []string{s}, nil
}

// OnLoopback says whether all that Addresses returned is on loopback.
func OnLoopback(addrs []string) bool {
	for _, s := range addrs {
		if ap, err := netip.ParseAddrPort(s); err != nil || !ap.Addr().IsLoopback() {
			return false
		}
	}
	return true
}

// HTTP serves until ctx is done, within the bounds of an interface.
func HTTP(ctx context.Context, ln net.Listener, h http.Handler) error {
	server := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: headerWait,
		ReadTimeout:       headerWait,
		WriteTimeout:      WriteWait,
		IdleTimeout:       headerWait,
		MaxHeaderBytes:    16 << 10,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext:       withPeer,
	}
	// Connections are few, and are not kept.
	server.SetKeepAlivesEnabled(false)
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// loopbackOnly refuses requests that were meant for another host.
func loopbackOnly(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isLoopbackHost(r.Host) {
			http.Error(w, "this is egressd on loopback; ask for localhost or a loopback address", http.StatusMisdirectedRequest)
			return
		}
		h.ServeHTTP(w, r)
	})
}

func isLoopbackHost(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	} else if inner, ok := strings.CutPrefix(host, "["); ok {
		name = strings.TrimSuffix(inner, "]")
	}
	addr, err := netip.ParseAddr(name)
	return strings.EqualFold(name, "localhost") || err == nil && addr.Zone() == "" && addr.IsLoopback()
}
