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

	"github.com/egressd/egressd/policy"
)

// agreement is a rig in which the kernel's tables and what the core knows are
// compared at any time.
type agreement struct {
	keeping
	used map[netip.Addr]bool // the addresses that connections are open to
}

func newAgreement(t *testing.T, records ...string) agreement {
	a := agreement{newKeeping(t, records...), map[netip.Addr]bool{}}
	a.names.o.InUse = func() (map[netip.Addr]bool, error) { return a.used, nil }
	return a
}

// check fails where the kernel and the core decide differently about a
// connection to one of the addresses: whether it may pass, and, when it may,
// that it finds an address to go to. It returns those that are open.
func (a agreement) check(when string, name string, addrs []netip.Addr) (open int) {
	a.t.Helper()
	p := a.pol.Policy(id)
	for _, addr := range addrs {
		kernel := a.kernel.opens(addr.String()) != nil
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
					{"its time is over", func() { a.clock.advance(time.Minute) }, 1},
					{"in grace", expire, 1},
					{"grace is over, and nothing has expired it", func() { a.used[ip] = true; a.clock.advance(a.names.o.Grace) }, 1},
					{"held by a connection", expire, 1},
					{"held for long", func() { a.clock.advance(48 * time.Hour); expire() }, 1},
					{"the connection ends", func() { clear(a.used) }, 1},
					{"expired", expire, 0},
					{"restored, over but in use", func() {
						a.used[ip] = true
						n, err := a.names.Restore([]Learned{{Policy: id, Name: name, Addr: ip, Until: a.clock.now().Add(-time.Hour)}})
						if n != 1 || err != nil {
							t.Fatal(n, err)
						}
					}, 1},
					{"not any more", func() { clear(a.used); expire() }, 0},
					{"learned again", func() { mustLearn(t, a.names, name, answers(time.Minute, addr)) }, 1},
					{"the policy no longer has it", func() {
						a.pol.p.Store(compile(t, service("other.example.com")))
						if err := a.names.Reapply(Both); err != nil {
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
			func() string { a.clock.advance(time.Duration(random.IntN(200)) * time.Second); return "wait" },
			func() string { a.used[some()] = true; return "connect" },
			func() string { delete(a.used, some()); return "close" },
			func() string { return fmt.Sprint("expire ", a.names.Expire()) },
			func() string { a.names.keepAll(id, name, a.clock.now().Add(20*time.Second)); return "keep" },
			func() string {
				a.kernel.setFail(errors.New("no"))
				err := a.names.Expire()
				a.kernel.setFail(nil)
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
