// SPDX-License-Identifier: Apache-2.0

// Package learnedtest has what tests of learned addresses stand on: a kernel
// that records what it is told, policies and a clock.
package learnedtest

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
)

// Main runs the tests and returns the exit code: not 0 as well when they leave a
// goroutine behind. (The fuzzing engine leaves one of its own.)
func Main(m *testing.M) int {
	before := runtime.NumGoroutine()
	code := m.Run()
	if f := flag.Lookup("test.fuzz"); f != nil && f.Value.String() != "" {
		return code
	}
	for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			fmt.Fprintf(os.Stderr, "goroutines left behind:\n%s", buf[:runtime.Stack(buf, true)])
			return 1
		}
	}
	return code
}

// Service is a DNS ServiceEntry with port 443 for hosts.
func Service(hosts ...string) *policy.Service {
	s := &policy.Service{
		Ref: policy.Ref{Kind: "ServiceEntry", Namespace: "default", Name: hosts[0]}, External: true,
		Ports:      []policy.Port{{Number: 443, Name: "tls", Protocol: policy.ProtocolTLS}},
		Resolution: policy.ResolutionDNS,
	}
	for _, h := range hosts {
		p, err := hostname.ParsePattern(h)
		if err != nil {
			panic(err)
		}
		s.Hosts = append(s.Hosts, p)
		if p.IsWildcard() {
			s.Resolution = policy.ResolutionNone
		}
	}
	return s
}

// Compile is a snapshot of the services.
func Compile(t testing.TB, services ...*policy.Service) *policy.Snapshot {
	t.Helper()
	s, err := policy.Compile(&policy.Config{Services: services})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Services are what most tests allow.
func Services() []*policy.Service {
	own := Service("db.internal")
	own.Resolution = policy.ResolutionStatic
	for _, a := range []string{"192.0.2.1", "192.0.2.2", "2001:db8::1"} {
		own.Endpoints = append(own.Endpoints, policy.Endpoint{Addr: netip.MustParseAddr(a)})
	}
	lax := Service("*.lax.test")
	lax.AllowPrivate = true
	return []*policy.Service{Service("www.example.com"), Service("other.example.com"), Service("*.wild.test"), lax, own}
}

// ExactServices are hosts that are named exactly beside "*.wild.test".
func ExactServices(n int) []*policy.Service {
	out := []*policy.Service{Service("*.wild.test")}
	for i := range n {
		out = append(out, Service(fmt.Sprintf("h%d.example.com", i)))
	}
	return out
}

// Policies are those of one snapshot, which a test replaces; none at first.
type Policies struct {
	atomic.Pointer[policy.Snapshot]
}

// Policy implements learned.Policies.
func (p *Policies) Policy(id policy.PolicyID) *policy.Policy {
	if s := p.Load(); s != nil {
		return s.Policy(id)
	}
	return nil
}

// Kernel records what it is told.
type Kernel struct {
	mu     sync.Mutex
	open   map[netip.Addr][]policy.Opening
	writes int
	fail   error
	hook   func() // called before each write, without the lock
}

// SetAddress implements learned.Kernel.
func (k *Kernel) SetAddress(_ policy.PolicyID, addr netip.Addr, o []policy.Opening) error {
	k.mu.Lock()
	hook := k.hook
	k.mu.Unlock()
	if hook != nil {
		hook()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.writes++
	if k.fail != nil {
		return k.fail
	}
	if k.open == nil {
		k.open = map[netip.Addr][]policy.Opening{}
	}
	if k.open[addr] = o; len(o) == 0 {
		delete(k.open, addr)
	}
	return nil
}

// Opens returns what an address opens.
func (k *Kernel) Opens(addr string) []policy.Opening {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.open[netip.MustParseAddr(addr)]
}

// Addresses returns the open addresses, sorted.
func (k *Kernel) Addresses() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := []string{}
	for a := range k.open {
		out = append(out, a.String())
	}
	slices.Sort(out)
	return out
}

// SetFail makes each write fail with err; nil: none any more.
func (k *Kernel) SetFail(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fail = err
}

// SetHook makes each write call f first.
func (k *Kernel) SetHook(f func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.hook = f
}

// Written counts the writes, failed ones too.
func (k *Kernel) Written() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.writes
}

// Clock is a clock that a test advances.
type Clock struct{ ns atomic.Int64 }

// NewClock returns a clock that stands at the first of January 2026.
func NewClock() *Clock {
	c := new(Clock)
	c.ns.Store(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano())
	return c
}

// Now is its time.
func (c *Clock) Now() time.Time { return time.Unix(0, c.ns.Load()) }

// Advance moves it on.
func (c *Clock) Advance(d time.Duration) { c.ns.Add(int64(d)) }
