// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// closedPort is one that nobody listens on, and that egressd refuses.
	closedPort = 9
	// dialVerb lets this program be the client.
	dialVerb = "dial-many"
	// dialWarm connections come before the measured ones.
	dialWarm = 100
)

// errNoPart: the subject has no part in what is measured.
var errNoPart = errors.New("not applicable")

// dial measures one connect() after the other to a port of the origin, for
// egressd at vip if it is not empty: an address of which the origin is the
// endpoint. The
// value is the median in microseconds. Where nothing is in between, a refusal
// is the origin's and takes the way there and back. nginx and HAProxy are left
// out: they have no part in the client's connect().
func (b *bench) dial(ctx context.Context, c subject, vip string, port uint16) (sample, error) {
	if c.addr != "" && c.addr != originV4 {
		return sample{}, errNoPart
	}
	self, err := os.Executable()
	if err != nil {
		return sample{}, err
	}
	before, err := c.cpuTime()
	if err != nil {
		return sample{}, err
	}
	to := originV4
	if c.addr == "" && vip != "" {
		to = vip
	} else if c.addr == "" {
		// egressd opens the address for the name.
		if out, err := b.client(ctx, c, "getent", "ahostsv4", host).CombinedOutput(); err != nil {
			return sample{}, fmt.Errorf("resolve %s: %w: %s", host, err, out)
		}
	}
	out, err := b.client(ctx, c, self, dialVerb, netip.AddrPortFrom(netip.MustParseAddr(to), port).String(), b.duration.String()).Output()
	if err != nil {
		return sample{}, fmt.Errorf("connect: %w: %s", err, out)
	}
	after, err := c.cpuTime()
	if err != nil {
		return sample{}, err
	}
	var median, n float64
	if _, err := fmt.Sscan(string(out), &median, &n); err != nil {
		return sample{}, fmt.Errorf("connect: %q: %w", out, err)
	}
	return sample{value: median, cpu: (after - before).Seconds() / n}, nil
}

// dialMany is the client: it connects for a while, one connection after the
// other, and prints the median in microseconds and how many there were.
func dialMany(addr, limit string) error {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return err
	}
	duration, err := time.ParseDuration(limit)
	if err != nil {
		return err
	}
	sa := &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	var took []float64
	for begin := time.Now(); time.Since(begin) < duration; {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		start := time.Now()
		err = unix.Connect(fd, sa)
		took = append(took, float64(time.Since(start).Nanoseconds())/1e3)
		// Close with a reset: no TIME_WAIT uses up the ports.
		_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		unix.Close(fd)
		if err != nil && !errors.Is(err, unix.ECONNREFUSED) {
			return err
		}
	}
	if len(took) <= dialWarm {
		return fmt.Errorf("only %d connections", len(took))
	}
	took = took[dialWarm:]
	slices.Sort(took)
	fmt.Println(took[len(took)/2], len(took))
	return nil
}
