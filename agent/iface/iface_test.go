// SPDX-License-Identifier: Apache-2.0

package iface

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/link"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/policy"
)

// kernel is a Datapath whose functions fail for the interfaces that it names.
type kernel struct {
	guarded                         map[int]loader.Interface
	guard, unguard                  map[string]error
	did                             []string
	steerErr, forgetErr, inboundErr error
	adopted                         bool
}

func (k *kernel) Guard(i loader.Interface) error {
	k.did = append(k.did, "guard "+i.Name)
	if err := k.guard[i.Name]; err != nil {
		return err
	}
	k.guarded[i.Index] = i
	return nil
}

func (k *kernel) Unguard(index int) error {
	name := k.guarded[index].Name
	k.did = append(k.did, "unguard "+name)
	delete(k.guarded, index)
	return k.unguard[name]
}

func (k *kernel) Guarded() (all []loader.Interface) {
	for _, i := range k.guarded {
		all = append(all, i)
	}
	slices.SortFunc(all, func(a, b loader.Interface) int { return a.Index - b.Index })
	return all
}

func (k *kernel) ForgetOtherInterfaces() error { k.did = append(k.did, "forget"); return k.forgetErr }
func (k *kernel) Steer() error                 { k.did = append(k.did, "steer"); return k.steerErr }
func (k *kernel) AdoptedFlows() bool           { return k.adopted }

func (k *kernel) AddInbound(index int, t policy.Transport, src, dst netip.AddrPort) error {
	k.did = append(k.did, fmt.Sprintf("inbound %d %s", index, dst))
	return k.inboundErr
}

// rig is a Guards over interfaces that there are not.
type rig struct {
	*Guards
	k       *kernel
	links   []link.Link
	listErr error
	open    []link.Connection
	said    bytes.Buffer
	as      loader.WorkloadState
}

func newRig(t *testing.T, choice string) *rig {
	t.Helper()
	c, err := link.ParseChoice(choice)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{k: &kernel{guarded: map[int]loader.Interface{}, guard: map[string]error{}, unguard: map[string]error{}}, as: loader.WorkloadState{ID: 1}}
	r.Guards = New(Options{Choice: c, Workload: func() loader.WorkloadState { return r.as }, Datapath: r.k, Log: slog.New(slog.NewTextHandler(&r.said, nil))})
	r.list = func() ([]link.Link, error) { return r.links, r.listErr }
	r.inbound = func(map[int]bool) ([]link.Connection, error) { return r.open, nil }
	return r
}

// did returns what was done since the last call.
func (r *rig) did() string {
	defer func() { r.k.did = nil }()
	return strings.Join(r.k.did, ", ")
}

var (
	pod    = link.Link{Index: 7, Name: "veth7", Outside: true, Frames: true}
	tap    = link.Link{Index: 8, Name: "tap8", Outside: true, Frames: true}
	uplink = link.Link{Index: 2, Name: "eth0", Uplink: true, Frames: true}
	tunnel = link.Link{Index: 3, Name: "tun0", L3: true, Frames: true}
)

// TestBegin: before the daemon is ready what is there is guarded, what others opened to
// it goes on, and what an earlier run left elsewhere goes; a step that fails is an
// error, and without a choice nothing is touched but that.
func TestBegin(t *testing.T) {
	failed := errors.New("failed")
	dst := netip.MustParseAddrPort("192.0.2.1:4000")
	for _, c := range []struct {
		name, choice string
		with         func(*rig)
		want         string
		err          error
	}{
		{"none", "none", func(*rig) {}, "forget", nil},
		{"auto", "auto", func(*rig) {}, "steer, inbound 7 192.0.2.1:4000, guard eth0, guard veth7, forget", nil},
		{"after a restart", "auto", func(r *rig) { r.k.adopted = true }, "steer, guard eth0, guard veth7, forget", nil},
		{"by name", "eth*", func(r *rig) { r.k.adopted = true }, "steer, guard eth0, guard veth7, forget", nil},
		{"no steering", "auto", func(r *rig) { r.k.steerErr = failed }, "steer", failed},
		{"what was left stays", "none", func(r *rig) { r.k.forgetErr = failed }, "forget", failed},
		{"one that cannot be guarded", "auto", func(r *rig) { r.k.adopted, r.k.guard["eth0"] = true, failed }, "steer, guard eth0, guard veth7, forget", nil},
		{"no list", "auto", func(r *rig) { r.k.adopted, r.listErr = true, failed }, "steer, forget", nil},
	} {
		r := newRig(t, c.choice)
		r.links = []link.Link{pod, uplink, tunnel}
		r.open = []link.Connection{{Index: pod.Index, Protocol: unix.IPPROTO_TCP, Dst: dst}}
		c.with(r)
		if err := r.Begin(); !errors.Is(err, c.err) {
			t.Errorf("%s: %v", c.name, err)
		}
		if got := r.did(); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// TestKinds: what comes in by a veth that nobody chose is looked at for frames alone, and
// by other interfaces not at all.
func TestKinds(t *testing.T) {
	r := newRig(t, "none")
	r.Choice = link.UplinksOnly
	r.links = []link.Link{pod, uplink, tunnel}
	r.look()
	for l, want := range map[link.Link]loader.InterfaceKind{pod: loader.Peer, uplink: loader.Uplink} {
		if got, ok := r.k.guarded[l.Index]; !ok || got.Kind != want {
			t.Errorf("%s: %v, %t; want %v", l.Name, got.Kind, ok, want)
		}
	}
	if len(r.k.guarded) != 2 {
		t.Errorf("guarded: %v", r.k.guarded)
	}
}

// TestLook: interfaces are guarded as they come, and left as they go or become
// something else; what is as it should be is not touched.
func TestLook(t *testing.T) {
	r := newRig(t, "auto")
	r.links = []link.Link{pod, uplink, tunnel}
	look := func(what, want string) {
		t.Helper()
		if r.look(); r.did() != want {
			t.Errorf("%s: not %q", what, want)
		}
	}
	if r.look(); r.did() != "guard eth0, guard veth7" {
		t.Error("the first look")
	}
	look("nothing new", "")
	r.links = []link.Link{pod, tap, uplink}
	look("one comes", "guard tap8")
	pod := pod
	pod.Uplink = true
	r.links = []link.Link{pod, tap, uplink}
	look("one becomes an uplink", "unguard veth7, guard veth7")
	if k := r.k.guarded[pod.Index].Kind; k != loader.Uplink {
		t.Errorf("it is a %v", k)
	}
	r.links = []link.Link{uplink}
	look("two go", "unguard veth7, unguard tap8")
	if r.NameOf(tap.Index) != "tap8" {
		t.Error("events of one that is gone have no name")
	}
	r.listErr = errors.New("failed")
	look("no list", "")
	if got := r.Status(); len(got) != 1 || got[0].Name != "eth0" {
		t.Errorf("they are not as they were: %+v", got)
	}
}

// TestUnguarded: an interface that can't be guarded is said once to pass everything, is
// in the status, keeps no other from being guarded, and is tried at each look; one
// that is gone already is none.
func TestUnguarded(t *testing.T) {
	r := newRig(t, "auto")
	r.links = []link.Link{pod, tap, uplink}
	r.k.guard["veth7"], r.k.guard["tap8"] = errors.New("no room"), unix.ENODEV
	for range 2 {
		if r.look(); !strings.Contains(r.did(), "guard veth7, guard tap8") {
			t.Error("they are not tried again")
		}
	}
	if n := strings.Count(r.said.String(), "no room"); n != 1 || strings.Contains(r.said.String(), "tap8") {
		t.Errorf("said: %s", &r.said)
	}
	if got := r.Status(); len(got) != 2 || got[1].Name != "veth7" || got[1].As != "not guarded" || got[1].Error != "no room" {
		t.Errorf("%+v", got)
	}
	clear(r.k.guard)
	r.look()
	if got := r.Status(); len(got) != 3 || got[2].As == "not guarded" {
		t.Errorf("it can be guarded now: %+v", got)
	}
}

// TestUpdatePolicy: a changed policy reaches the interfaces with workloads, and no uplink; one
// that keeps the earlier one is said, and is told again.
func TestUpdatePolicy(t *testing.T) {
	r := newRig(t, "auto")
	r.links = []link.Link{pod, tap, uplink}
	r.look()
	r.did()
	if r.UpdatePolicy(); r.did() != "" {
		t.Error("nothing has changed")
	}
	r.as.AllowAny = true
	r.k.guard["veth7"] = errors.New("failed")
	if r.UpdatePolicy(); r.did() != "guard veth7, guard tap8" || !strings.Contains(r.said.String(), "earlier policy") {
		t.Errorf("said: %s", &r.said)
	}
	clear(r.k.guard)
	if r.UpdatePolicy(); r.did() != "guard veth7" || !r.k.guarded[pod.Index].Workload.AllowAny {
		t.Error("the one that failed is not told again")
	}
}

// TestParseChoice: what is behind veths and taps is guarded by itself only when
// everything on the node is captured.
func TestParseChoice(t *testing.T) {
	for _, c := range []struct {
		flag               string
		whole, picks, none bool
	}{
		{"auto", true, true, false}, {"auto", false, false, false}, {"none", true, false, true}, {"veth*", false, true, false},
	} {
		got, err := ParseChoice(c.flag, c.whole)
		if err != nil || got.Picks(pod) != c.picks || got.None() != c.none {
			t.Errorf("%s: picks a veth %t, none %t, %v", c.flag, got.Picks(pod), got.None(), err)
		}
	}
	if _, err := ParseChoice("[", true); err == nil {
		t.Error("a bad pattern was taken")
	}
}

// TestShut: what is behind an interface is shut at once, and opened again by its policy.
func TestShut(t *testing.T) {
	r := newRig(t, "auto")
	r.links = []link.Link{pod, uplink}
	r.as.AllowAny = true
	r.look()
	r.did()
	open := func(w loader.WorkloadState) bool { return w.AllowAny }
	if err := r.Shut(open); err != nil || r.did() != "guard veth7" || r.k.guarded[pod.Index].Workload.AllowAny {
		t.Errorf("%v, %+v", err, r.k.guarded)
	}
	if err := r.Shut(open); err != nil || r.did() != "" {
		t.Errorf("it is shut twice: %v", err)
	}
	if r.UpdatePolicy(); !r.k.guarded[pod.Index].Workload.AllowAny {
		t.Error("it stays shut")
	}
	failed := errors.New("failed")
	r.k.guard["veth7"] = failed
	if err := r.Shut(open); !errors.Is(err, failed) {
		t.Errorf("%v", err)
	}
}
