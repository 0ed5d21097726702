// SPDX-License-Identifier: Apache-2.0

package attack

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/egressd/egressd/internal/machine"
	"github.com/egressd/egressd/internal/world"
)

// addNeighbours puts two pods and two machines behind the node.
func (a *arena) addNeighbours() {
	var err error
	a.pod, err = a.AddNeighbour("pod0", 1)
	a.must(err)
	a.freePod, err = a.AddNeighbour("free0", 2)
	a.must(err)
	a.vm, err = machine.New(a.World, "vm0", 1)
	a.must(err)
	a.t.Cleanup(func() { _ = a.vm.Close() })
	a.freeVM, err = machine.New(a.World, "freevm0", 2)
	a.must(err)
	a.t.Cleanup(func() { _ = a.freeVM.Close() })
}

// pod is an attempt by a captured process in the pod; its twin is in the other
// pod.
func pod(function string, args ...string) func(*arena, *world.Cgroup) string {
	return func(a *arena, cg *world.Cgroup) string {
		where := a.pod
		if cg == nil {
			where = a.freePod
		}
		return a.pythonIn(where.Netns, cg, cg == nil, append([]string{"ways", function}, args...)...)
	}
}

// openPod is an attempt by a captured process in the pod whose interface is not guarded; its
// twin is there as well.
func openPod(function string, args ...string) func(*arena, *world.Cgroup) string {
	return func(a *arena, cg *world.Cgroup) string {
		return a.pythonIn(a.freePod.Netns, cg, true, append([]string{"ways", function}, args...)...)
	}
}

// podOutside is an attempt by a process in the pod that is in no captured cgroup.
func podOutside(function string, args ...string) func(*arena, *world.Cgroup) string {
	return func(a *arena, cg *world.Cgroup) string {
		where := a.pod
		if cg == nil {
			where = a.freePod
		}
		return a.pythonIn(where.Netns, a.outside, cg == nil, append([]string{"ways", function}, args...)...)
	}
}

// machineOf is the machine that is guarded or its twin.
func (a *arena) machineOf(cg *world.Cgroup) *machine.Machine {
	if cg == nil {
		return a.freeVM
	}
	return a.vm
}

// told names what a machine's stack says.
func told(err error) string {
	var timeout net.Error
	switch {
	case err == nil:
		return "connected"
	case strings.Contains(err.Error(), "refused"):
		return "refused"
	case strings.Contains(err.Error(), "reset"):
		return "reset"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "silence"
	}
	return err.Error()
}

func machineDial(to func(*arena) netip.AddrPort) func(*arena, *world.Cgroup) string {
	return func(a *arena, cg *world.Cgroup) string {
		ctx, cancel := context.WithTimeout(a.t.Context(), soon)
		defer cancel()
		c, err := a.machineOf(cg).Dial(ctx, to(a))
		if err == nil {
			_ = c.Close()
		}
		return told(err)
	}
}

// pieces writes in pieces.
type pieces struct {
	net.Conn
	size int
}

func (p pieces) Write(b []byte) (int, error) {
	done := 0
	for done < len(b) {
		n, err := p.Conn.Write(b[done:min(len(b), done+p.size)])
		if done += n; err != nil {
			return done, err
		}
	}
	return done, nil
}

// machineTLS asks the shared site for a name.
func machineTLS(name string, size int) func(*arena, *world.Cgroup) string {
	return func(a *arena, cg *world.Cgroup) string {
		ctx, cancel := context.WithTimeout(a.t.Context(), soon)
		defer cancel()
		c, err := a.machineOf(cg).Dial(ctx, netip.AddrPortFrom(a.shared.V4, 443))
		if err != nil {
			return "connect: " + told(err)
		}
		defer c.Close()
		a.must(c.SetDeadline(time.Now().Add(soon)))
		if size > 0 {
			c = pieces{c, size}
		}
		tc := tls.Client(c, &tls.Config{ServerName: name, InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12})
		if _, err := tc.Write([]byte("GET / HTTP/1.0\r\nHost: " + name + "\r\n\r\n")); err != nil {
			return told(err)
		}
		if _, err = tc.Read(make([]byte, 16)); err != nil {
			return told(err)
		}
		return "answered"
	}
}

func machineDNS(server, name string) func(*arena, *world.Cgroup) string {
	return func(a *arena, cg *world.Cgroup) string {
		r := &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
			return a.machineOf(cg).DialUDP(netip.AddrPortFrom(addr(server), 53))
		}}
		ctx, cancel := context.WithTimeout(a.t.Context(), soon)
		defer cancel()
		_, err := r.LookupNetIP(ctx, "ip4", name+".")
		var e *net.DNSError
		switch {
		case errors.As(err, &e) && e.IsTimeout:
			return "silence"
		case errors.As(err, &e) && !e.IsNotFound:
			return "REFUSED"
		}
		return "answered"
	}
}
