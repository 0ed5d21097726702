// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
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

	"github.com/egressd/egressd/internal/connlimit"
	"github.com/egressd/egressd/internal/link"
	"github.com/egressd/egressd/internal/portholder"
)

// Bounds of the interfaces. Who opens more connections has the oldest closed.
const (
	maxInterfaceConns = 64 // of one listener
	// adminReserve are descriptors that are kept for the admin socket: unload
	// and status must work when everything else has run out of them.
	adminReserve = 16
	headerWait   = 5 * time.Second
	// writeWait is how long an answer may take, and one event for a follower.
	writeWait = 10 * time.Second
	// bindAgain is how often a taken port of an interface is tried again.
	bindAgain = 5 * time.Second
)

// surfaces are the interfaces of the daemon that are open.
type surfaces struct {
	mu     sync.Mutex
	limits map[string]*connlimit.Listener // by name
}

// closed is how many connections were closed to make room, by interface.
func (s *surfaces) closed() map[string]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]uint64{}
	for name, l := range s.limits {
		name, _, _ = strings.Cut(name, " ")
		out[name] += l.Closed()
	}
	return out
}

// release gives up the reserve of descriptors.
func (s *surfaces) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.limits {
		l.Release(adminReserve)
	}
}

func (s *surfaces) limit(name string, ln net.Listener, reserve int) net.Listener {
	l := connlimit.New(ln, maxInterfaceConns, reserve)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.limits == nil {
		s.limits = map[string]*connlimit.Listener{}
	}
	s.limits[name] = l
	return l
}

// serveInterfaces opens the admin socket and, when it is asked for, port, the
// status and metrics port and the readiness port. A port that somebody else has
// is opened when it is free: nobody can keep the daemon from starting with it.
func (a *Agent) serveInterfaces(ctx context.Context, serve func(func() error)) error {
	socket, err := a.adminSocket()
	if err != nil {
		return fmt.Errorf("open the admin socket: %w", err)
	}
	admin := a.surfaces.limit("socket", peers{socket, os.Getpid()}, adminReserve)
	serve(func() error { return serveHTTP(ctx, admin, onlyFor(a.opts.AdminGroup, a.adminHandler(true))) })
	metrics := a.statusHandler()
	for _, i := range []struct {
		name, address string
		handler       http.Handler
	}{
		{"admin", a.opts.AdminAddress, a.adminHandler(false)},
		{"status", a.opts.StatusAddress, metrics},
		{"health", a.opts.HealthAddress, a.readyHandler()},
	} {
		if i.address == "" {
			continue
		}
		addrs, err := interfaceAddrs(i.address)
		if err != nil {
			return err
		}
		for _, addr := range addrs {
			if err := a.serveAt(ctx, serve, i.name, addr, i.handler); err != nil {
				return err
			}
		}
	}
	return nil
}

// adminSocket opens the socket for root and the admin group.
func (a *Agent) adminSocket() (net.Listener, error) {
	path := filepath.Join(a.opts.StateDir, AdminSocket)
	// The lock on the state directory says that nobody listens there.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	socket, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	mode, group := os.FileMode(0o600), int(a.opts.AdminGroup)
	if group != 0 {
		mode = 0o660
		a.letIn(group)
	}
	if err := errors.Join(os.Chown(path, -1, group), os.Chmod(path, mode)); err != nil {
		return nil, errors.Join(err, socket.Close())
	}
	return socket, nil
}

// letIn lets a group reach what it may open in the state directory, if that
// is as egressd makes it: others may have chosen its mode with a purpose.
func (a *Agent) letIn(group int) {
	info, err := os.Stat(a.opts.StateDir)
	if err == nil && info.Mode().Perm() == 0o700 {
		if err = os.Chown(a.opts.StateDir, -1, group); err == nil {
			err = os.Chmod(a.opts.StateDir, 0o710)
		}
	}
	if err != nil {
		a.log.Warn("the admin group does not reach the admin socket", "directory", a.opts.StateDir, "error", err)
	}
}

// serveAt serves one address, now or, if somebody else has it, later.
func (a *Agent) serveAt(ctx context.Context, serve func(func() error), name, addr string, h http.Handler) error {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(ctx, "tcp", addr)
	if err != nil && !errors.Is(err, unix.EADDRINUSE) {
		return fmt.Errorf("open the %s interface: %w", name, err)
	}
	if ln == nil {
		a.log.Warn("an interface is not there, because somebody else has its port; it comes when the port is free",
			"interface", name, "address", addr, "holder", portholder.Name("tcp", portOf(addr)))
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
		return serveHTTP(ctx, a.surfaces.limit(name+" "+addr, ln, 0), h)
	})
	return nil
}

// portOf is the port of ADDRESS:PORT; 0: it has none.
func portOf(addr string) uint16 {
	_, port, _ := net.SplitHostPort(addr)
	n, _ := strconv.ParseUint(port, 10, 16)
	return uint16(n)
}

// interfaceAddrs reads the address of an interface: ADDRESS:PORT,
// localhost:PORT for loopback of each family that the machine has, or :PORT
// for all addresses.
func interfaceAddrs(s string) ([]string, error) {
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

// onLoopback says whether all that interfaceAddrs returned is on loopback.
func onLoopback(addrs []string) bool {
	for _, s := range addrs {
		if ap, err := netip.ParseAddrPort(s); err != nil || !ap.Addr().IsLoopback() {
			return false
		}
	}
	return true
}

// serveHTTP serves until ctx is done.
func serveHTTP(ctx context.Context, ln net.Listener, h http.Handler) error {
	s := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: headerWait,
		ReadTimeout:       headerWait,
		WriteTimeout:      writeWait,
		IdleTimeout:       headerWait,
		MaxHeaderBytes:    16 << 10,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext:       withPeer,
	}
	// Connections are few, and are not kept.
	s.SetKeepAlivesEnabled(false)
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := s.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
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
