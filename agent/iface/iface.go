// SPDX-License-Identifier: Apache-2.0

// Package iface keeps the kernel programs on network interfaces in step with the
// interfaces: those with workloads at their other end, and those that lead out.
package iface

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/link"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/policy"
)

// ParseChoice reads a choice of interfaces. With auto, what is behind veths and taps is
// under policy only when the whole node is.
func ParseChoice(s string, whole bool) (link.Choice, error) {
	c, err := link.ParseChoice(s)
	if err == nil && c.Auto && !whole {
		c = link.UplinksOnly
	}
	return c, err
}

// Datapath is what guarding needs of the kernel's side.
type Datapath interface {
	// Guard puts an interface under policy, or changes the policy of one that is;
	// Unguard takes it away, and Guarded lists them.
	Guard(loader.Interface) error
	Unguard(index int) error
	Guarded() []loader.Interface
	// ForgetOtherInterfaces removes what an earlier run left on others.
	ForgetOtherInterfaces() error
	// Steer lets what bears the address that was dialled reach the listeners.
	Steer() error
	// AdoptedFlows says that the flows of an earlier run are known. AddInbound adds one
	// that somebody else opened to a workload.
	AdoptedFlows() bool
	AddInbound(index int, t policy.Transport, src, dst netip.AddrPort) error
}

// Options of a Guards.
type Options struct {
	// Choice says which interfaces have workloads at their other end.
	Choice link.Choice
	// Workload is what these are now.
	Workload func() loader.WorkloadState
	Datapath Datapath
	Log      *slog.Logger
}

// Guards keeps the programs on interfaces in step with the interfaces.
type Guards struct {
	Options
	// list lists the interfaces, inbound what others opened to those behind some.
	list    func() ([]link.Link, error)
	inbound func(behind map[int]bool) ([]link.Connection, error)

	mu sync.Mutex
	// names are those of all interfaces that were ever guarded: events come
	// later than the interface goes.
	names map[int]string
	// failed says what could not be guarded, by name; told once.
	failed map[string]string
}

// New guards nothing yet.
func New(o Options) *Guards {
	return &Guards{Options: o, list: link.List, inbound: link.Inbound, names: map[int]string{}, failed: map[string]string{}}
}

// Begin puts the interfaces under policy that are there, before the
// daemon is ready.
func (g *Guards) Begin() error {
	if g.Choice.None() {
		return g.Datapath.ForgetOtherInterfaces()
	}
	if g.Choice.Workloads() {
		if err := g.Datapath.Steer(); err != nil {
			return err
		}
		if !g.Datapath.AdoptedFlows() {
			g.admitInbound()
		}
	}
	g.look()
	return g.Datapath.ForgetOtherInterfaces()
}

// Watch follows the interfaces as they come and go.
func (g *Guards) Watch(ctx context.Context) error {
	if g.Choice.None() {
		return nil
	}
	for ctx.Err() == nil {
		if err := link.Watch(ctx, g.look); err != nil {
			g.Log.Error("the network interfaces cannot be watched (netlink); egressd lists them every 5 seconds, and a new one is NOT filtered until then", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(watchAgain):
			g.look()
		}
	}
	return nil
}

// watchAgain is how long a daemon that cannot be told waits between two looks.
const watchAgain = 5 * time.Second

// wanted are the interfaces that are to be guarded now.
func (g *Guards) wanted() (map[int]loader.Interface, error) {
	all, err := g.list()
	if err != nil {
		return nil, err
	}
	out := map[int]loader.Interface{}
	for _, l := range all {
		i := loader.Interface{Index: l.Index, Name: l.Name, L3: l.L3}
		switch {
		case g.Choice.Picks(l):
			i.Workload = g.Workload()
		case l.Frames && !l.L3:
			// Not only those with a default route: a second network and the
			// veth of a pod are ways out for a packet socket as well.
			i.Kind = loader.Uplink
			if l.Outside && !l.Uplink {
				i.Kind = loader.Peer
			}
		default:
			continue
		}
		out[l.Index] = i
	}
	return out, nil
}

// look guards what is to be guarded and leaves the rest.
func (g *Guards) look() {
	want, err := g.wanted()
	if err != nil {
		g.Log.Warn("the network interfaces could not be listed; those that are guarded stay so, and new ones are NOT filtered", "error", err)
		return
	}
	for _, i := range g.Datapath.Guarded() {
		if w, ok := want[i.Index]; ok && w.Kind == i.Kind {
			continue
		}
		if err := g.Datapath.Unguard(i.Index); err != nil {
			g.Log.Warn("the programs could not be detached from an interface", "interface", i.Name, "error", err)
		}
		g.Log.Info("interface no longer guarded", "interface", i.Name)
	}
	guarded := map[int]bool{}
	for _, i := range g.Datapath.Guarded() {
		guarded[i.Index] = true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	failed := map[string]string{}
	for _, index := range slices.Sorted(maps.Keys(want)) {
		i := want[index]
		g.names[index] = i.Name
		if guarded[index] {
			continue
		}
		err := g.Datapath.Guard(i)
		switch {
		case err == nil:
			g.Log.Info("guarded", "interface", i.Name, "as", i.Kind.String())
		case errors.Is(err, unix.ENODEV):
			// It is gone already.
		default:
			failed[i.Name] = err.Error()
			if g.failed[i.Name] == "" {
				g.Log.Error("the programs could not be attached to an interface; its traffic is NOT filtered; see the error", "interface", i.Name, "error", err)
			}
		}
	}
	g.failed = failed
}

// UpdatePolicy tells the kernel of guarded interfaces that their workload has another
// policy.
func (g *Guards) UpdatePolicy() {
	node := g.Workload()
	for _, i := range g.Datapath.Guarded() {
		if i.Kind != loader.WorkloadInterface || i.Workload == node {
			continue
		}
		i.Workload = node
		if err := g.Datapath.Guard(i); err != nil {
			g.Log.Error("the policy of an interface could not be updated; its earlier policy stays in force there", "interface", i.Name, "error", err)
		}
	}
}

// Shut takes what its policy does not know from each guarded workload that shut says,
// until the next UpdatePolicy.
func (g *Guards) Shut(shut func(loader.WorkloadState) bool) error {
	var errs []error
	for _, i := range g.Datapath.Guarded() {
		if i.Kind == loader.WorkloadInterface && shut(i.Workload) {
			i.Workload.AllowAny = false
			errs = append(errs, g.Datapath.Guard(i))
		}
	}
	return errors.Join(errs...)
}

// admitInbound lets go on what others opened to workloads before their
// interfaces were guarded, as far as the kernel's connection tracking knows it.
// Without it such a connection is judged by its address, as if the workload had
// opened it.
func (g *Guards) admitInbound() {
	want, err := g.wanted()
	if err != nil {
		return // it is said when they are guarded
	}
	behind := map[int]bool{}
	for index, i := range want {
		if i.Kind == loader.WorkloadInterface {
			behind[index] = true
		}
	}
	if len(behind) == 0 {
		return
	}
	open, err := g.inbound(behind)
	if err != nil {
		g.Log.Info("the connection tracking table could not be read; connections that others opened to workloads before egressd are decided by their addresses, and may be reset", "error", err)
	}
	for _, c := range open {
		if err := g.Datapath.AddInbound(c.Index, policy.Transport(c.Protocol), c.Src, c.Dst); err != nil {
			g.Log.Warn("a connection that was opened to a workload before egressd could not be entered; it is decided by its address, and may be reset", "from", c.Dst.String(), "error", err)
		}
	}
}

// NameOf names an interface of an event.
func (g *Guards) NameOf(index int) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.names[index]
}

// InterfaceStatus is one guarded interface.
type InterfaceStatus struct {
	Name  string `json:"name"`
	As    string `json:"as"` // workload, uplink or peer
	Error string `json:"error,omitempty"`
}

// Status lists the guarded interfaces, and those that could not be.
func (g *Guards) Status() []InterfaceStatus {
	var out []InterfaceStatus
	for _, i := range g.Datapath.Guarded() {
		out = append(out, InterfaceStatus{Name: i.Name, As: i.Kind.String()})
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for name, err := range g.failed {
		out = append(out, InterfaceStatus{Name: name, As: "not guarded", Error: err})
	}
	slices.SortFunc(out, func(a, b InterfaceStatus) int { return strings.Compare(a.Name, b.Name) })
	return out
}
