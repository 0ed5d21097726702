// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/egressd/egressd/internal/learned"
	"github.com/egressd/egressd/internal/learned/learnedtest"
	"github.com/egressd/egressd/policy"
)

// agreement is a rig in which the kernel's tables and what the core knows are
// compared at any time.
type agreement struct {
	keeping
}

func newAgreement(t *testing.T, records ...string) agreement {
	return agreement{newKeeping(t, records...)}
}

// check fails where the kernel and the core decide differently about a
// connection to one of the addresses: whether it may pass, and, when it may,
// that it finds an address to go to. It returns those that are open.
func (a agreement) check(when string, name string, addrs []netip.Addr) (open int) {
	a.t.Helper()
	p := a.pol.Policy(id)
	for _, addr := range addrs {
		kernel := a.kernel.Opens(addr.String()) != nil
		d := p.Decide(policy.Flow{
			Transport: policy.TCP, Dst: netip.AddrPortFrom(addr, 443), Names: a.names.NamesOf(id, addr),
			Host: name, HostFrom: policy.EvidenceSNI,
		})
		if core := d.Verdict != policy.Deny; core != kernel {
			a.t.Errorf("%s: %s is open in the kernel: %v, and for the core: %v (%s)", when, addr, kernel, core, d.Reason)
		}
		if !kernel {
			continue
		}
		open++
		if len(a.names.AddrsOf(id, name)) > 0 {
			continue
		}
		if _, err := a.Resolve(context.Background(), id, name); err != nil {
			a.t.Errorf("%s: %s is open, and the core finds no address: %v", when, addr, err)
		}
	}
	return open
}

// TestKernelAndCoreAgree: through the whole life of an address, in each of its
// moments, the core lets pass what the kernel does.
func TestKernelAndCoreAgree(t *testing.T) {
	for _, name := range []string{"www.example.com", "a.wild.test"} {
		for _, addr := range []string{"203.0.113.1", "2001:4860::1"} {
			t.Run(name+" "+addr, func(t *testing.T) {
				a := newAgreement(t)
				ip := netip.MustParseAddr(addr)
				all := []netip.Addr{ip}
				// Nobody answers: nothing is prolonged but by connections.
				a.z.setHandle(func(w dns.ResponseWriter, q *dns.Msg) {
					_ = w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeServerFailure))
				})
				expire := func() {
					if err := a.names.Expire(); err != nil {
						t.Fatal(err)
					}
				}
				steps := []struct {
					when string
					do   func()
					open int
				}{
					{"never learned", func() {}, 0},
					{"learned", func() { mustLearn(t, a.names, name, answers(time.Minute, addr)) }, 1},
					{"its time is over", func() { a.clock.Advance(time.Minute) }, 1},
					{"in grace", expire, 1},
					{"grace is over, and nothing has expired it", func() { a.inUse[ip] = true; a.clock.Advance(a.names.Options().Grace) }, 1},
					{"held by a connection", expire, 1},
					{"held for long", func() { a.clock.Advance(48 * time.Hour); expire() }, 1},
					{"the connection ends", func() { clear(a.inUse) }, 1},
					{"expired", expire, 0},
					{"restored, over but in use", func() {
						a.inUse[ip] = true
						n, err := a.names.Restore([]learned.Saved{{Policy: id, Name: name, Addr: ip, Until: a.clock.Now().Add(-time.Hour)}}, nil)
						if n != 1 || err != nil {
							t.Fatal(n, err)
						}
					}, 1},
					{"not any more", func() { clear(a.inUse); expire() }, 0},
					{"learned again", func() { mustLearn(t, a.names, name, answers(time.Minute, addr)) }, 1},
					{"the policy no longer has it", func() {
						a.pol.Store(learnedtest.Compile(t, learnedtest.Service("other.example.com")))
						if err := a.names.Loosen(policy.Diff(nil, a.pol.Load())); err != nil {
							t.Fatal(err)
						}
					}, 0},
				}
				for _, s := range steps {
					s.do()
					if open := a.check(s.when, name, all); open != s.open {
						t.Errorf("%s: %d are open, want %d", s.when, open, s.open)
					}
				}
			})
		}
	}
}

// TestKernelAndCoreAgreeAlways is the same for any order of what can happen.
func TestKernelAndCoreAgreeAlways(t *testing.T) {
	const name = "www.example.com"
	for seed := range uint64(50) {
		random := rand.New(rand.NewPCG(seed, 7))
		a := newAgreement(t)
		var all []netip.Addr
		for i := range 6 {
			all = append(all, netip.MustParseAddr(fmt.Sprintf("203.0.113.%d", i+1)))
		}
		some := func() netip.Addr { return all[random.IntN(len(all))] }
		acts := []func() string{
			func() string {
				ttl := time.Duration(random.IntN(300)) * time.Second
				mustLearn(t, a.names, name, answers(ttl, some().String(), some().String()))
				return "learn"
			},
			func() string { a.clock.Advance(time.Duration(random.IntN(200)) * time.Second); return "wait" },
			func() string { a.inUse[some()] = true; return "connect" },
			func() string { delete(a.inUse, some()); return "close" },
			func() string { return fmt.Sprint("expire ", a.names.Expire()) },
			func() string { a.names.KeepUntil(id, name, a.clock.Now().Add(20*time.Second)); return "keep" },
			func() string {
				a.kernel.SetFail(errors.New("no"))
				err := a.names.Expire()
				a.kernel.SetFail(nil)
				return fmt.Sprint("fail ", err != nil, a.names.Expire())
			},
		}
		a.z.setHandle(func(w dns.ResponseWriter, q *dns.Msg) {
			_ = w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeServerFailure))
		})
		for i := range 60 {
			what := acts[random.IntN(len(acts))]()
			if a.check(fmt.Sprintf("seed %d, step %d, %s", seed, i, what), name, all); t.Failed() {
				return
			}
		}
	}
}
