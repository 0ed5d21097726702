// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/egressd/egressd/internal/learned/learnedtest"
	"github.com/egressd/egressd/policy"
)

// keeping is a rig whose names are kept by hand.
type keeping struct {
	*rig
	k *keeper
	z *zone
}

func newKeeping(t *testing.T, records ...string) keeping {
	z := newZone(t, records...)
	r := newRig(t, Config{Upstreams: Upstreams{Timeout: time.Second}}, z.addr)
	return keeping{r, &keeper{s: r.Server, names: map[string]*keptName{}}, z}
}

// told learns what a name answers, as a workload that asks is told.
func (k keeping) told(name string) {
	k.t.Helper()
	c := *k.origins.client.Load()
	for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
		k.reply(context.Background(), c, policy.UDP, mustPack(k.t, question(name, qtype)))
	}
}

// pass lets time go by as the daemon does.
func (k keeping) pass(d time.Duration) {
	k.t.Helper()
	for end := k.clock.Now().Add(d); k.clock.Now().Before(end); {
		k.clock.Advance(k.names.Options().Interval)
		k.k.round(context.Background())
		if err := k.names.Expire(); err != nil {
			k.t.Fatal(err)
		}
	}
}

func (k keeping) open(want ...string) {
	k.t.Helper()
	if got := k.kernel.Addresses(); !slices.Equal(got, want) {
		k.t.Errorf("open: %v, want %v", got, want)
	}
}

// recordsOf are the addresses of a name with a time to live.
func recordsOf(ttl int, name string, addrs ...string) []string {
	var out []string
	for _, a := range addrs {
		kind := "A"
		if netip.MustParseAddr(a).Is6() {
			kind = "AAAA"
		}
		out = append(out, fmt.Sprintf("%s %d %s %s", name, ttl, kind, a))
	}
	return out
}

// TestKeep: a program that has resolved once goes on for as long as the name
// answers what it was told, whatever the time to live.
func TestKeep(t *testing.T) {
	for _, ttl := range []int{0, 7, 60, 3600} {
		t.Run(fmt.Sprint(ttl), func(t *testing.T) {
			k := newKeeping(t, recordsOf(ttl, "www.example.com.", "203.0.113.1", "203.0.113.2", "2001:4860::1")...)
			k.told("www.example.com.")
			k.z.takeAsked()
			k.pass(3 * time.Hour)
			k.open("2001:4860::1", "203.0.113.1", "203.0.113.2")
			asked := len(k.z.takeAsked()) / 2
			if most := int(3*time.Hour/max(keepFloor, time.Duration(ttl)*time.Second)) * 5 / 4; asked < 2 || asked > most+2 {
				t.Errorf("asked %d times in three hours", asked)
			}
			// What the name gives up goes, what it gets is not opened before
			// somebody asks.
			k.z.set(recordsOf(ttl, "www.example.com.", "203.0.113.2", "203.0.113.3")...)
			k.pass(time.Duration(ttl)*time.Second + 3*time.Minute)
			k.open("203.0.113.2")
			k.z.set(recordsOf(ttl, "www.example.com.", "203.0.113.3")...)
			k.pass(time.Duration(ttl)*time.Second + 3*time.Minute)
			k.open()
			if n := len(k.k.names); n != 0 {
				t.Errorf("%d names are kept, and nothing is learned", n)
			}
		})
	}
}

// TestKeepOnly: names under a wildcard, egressd's own and those of a policy
// that is no more are not asked for.
func TestKeepOnly(t *testing.T) {
	k := newKeeping(t, append(recordsOf(5, "a.wild.test.", "203.0.113.3"), recordsOf(5, "www.example.com.", "203.0.113.1")...)...)
	k.told("a.wild.test.")
	k.told("db.internal.")
	k.told("www.example.com.")
	k.z.takeAsked()
	k.pass(5 * time.Minute)
	k.open("203.0.113.1")
	for _, q := range k.z.takeAsked() {
		if q != "www.example.com. A udp" && q != "www.example.com. AAAA udp" {
			t.Errorf("asked %s", q)
		}
	}
	k.pol.Store(learnedtest.Compile(t, learnedtest.Service("other.example.com")))
	if err := k.names.Loosen(policy.Diff(nil, k.pol.Load())); err != nil {
		t.Fatal(err)
	}
	k.pass(time.Minute)
	k.open()
	if asked := k.z.takeAsked(); len(asked) != 0 {
		t.Errorf("asked %v after the policy's end", asked)
	}
}

// TestKeepWithoutServers: that no server answers says nothing about the name,
// for the longest time that an answer counts; that it is gone, does.
func TestKeepWithoutServers(t *testing.T) {
	k := newKeeping(t, recordsOf(5, "www.example.com.", "203.0.113.1")...)
	k.told("www.example.com.")
	k.pass(10 * time.Minute)
	servfail := func(w dns.ResponseWriter, q *dns.Msg) {
		_ = w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeServerFailure))
	}
	k.z.setHandle(servfail)
	k.pass(30 * time.Minute)
	k.open("203.0.113.1")
	k.z.setHandle(nil)
	k.pass(10 * time.Minute)
	k.z.setHandle(servfail)
	k.pass(50 * time.Minute)
	k.open("203.0.113.1")
	k.pass(30 * time.Minute)
	k.open()
	k.z.setHandle(nil)
	k.told("www.example.com.")
	k.open("203.0.113.1")
	k.z.set()
	k.pass(3 * time.Minute)
	k.open()
}

// TestKeepManyWithoutServers: while no server answers, many names are kept
// without waiting for one after the other.
func TestKeepManyWithoutServers(t *testing.T) {
	k := newKeeping(t)
	k.pol.Store(learnedtest.Compile(t, learnedtest.ExactServices(200)...))
	for i := range 200 {
		mustLearn(t, k.names, fmt.Sprintf("h%d.example.com", i), answers(time.Second, fmt.Sprintf("203.0.113.%d", i)))
	}
	k.z.setHandle(func(dns.ResponseWriter, *dns.Msg) {}) // silence, for a second each
	began := time.Now()
	k.k.round(context.Background())
	if took := time.Since(began); took > 20*time.Second || k.Stats()["kept_failed"] != 200 {
		t.Errorf("a round took %s: %v", took, k.Stats())
	}
	k.clock.Advance(2*time.Second + k.names.Options().Grace)
	if err := k.names.Expire(); err != nil || len(k.kernel.Addresses()) != 200 {
		t.Errorf("%d addresses are open, %v", len(k.kernel.Addresses()), err)
	}
}
