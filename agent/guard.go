// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/link"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/policy"
)

// guards keeps the programs on interfaces in step with the interfaces.
type guards struct {
	mu sync.Mutex
	// names are those of all interfaces that were ever guarded: events come
	// later than the interface goes.
	names map[int]string
	// failed says what could not be guarded, by name; told once.
	failed map[string]string
}

// guardInterfaces puts the interfaces under policy that are there, before the
// daemon is ready.
func (a *Agent) guardInterfaces() error {
	if a.opts.Guard.None() {
		return a.datapath.ForgetOtherInterfaces()
	}
	if a.opts.Guard.Workloads() {
		if err := a.datapath.Steer(); err != nil {
			return err
		}
		if !a.datapath.AdoptedFlows() {
			a.admitInbound()
		}
	}
	a.lookAtInterfaces()
	return a.datapath.ForgetOtherInterfaces()
}

// watchInterfaces follows the interfaces as they come and go.
func (a *Agent) watchInterfaces(ctx context.Context) error {
	if a.opts.Guard.None() {
		return nil
	}
	for ctx.Err() == nil {
		if err := link.Watch(ctx, a.lookAtInterfaces); err != nil {
			a.log.Error("new interfaces are not noticed at once", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(watchAgain):
			a.lookAtInterfaces()
		}
	}
	return nil
}

// watchAgain is how long a daemon that cannot be told waits between two looks.
const watchAgain = 5 * time.Second

// wantedInterfaces are the interfaces that are to be guarded now.
func (a *Agent) wantedInterfaces() (map[int]loader.Interface, error) {
	all, err := link.List()
	if err != nil {
		return nil, err
	}
	out := map[int]loader.Interface{}
	for _, l := range all {
		i := loader.Interface{Index: l.Index, Name: l.Name, L3: l.L3}
		switch {
		case a.opts.Guard.Picks(l):
			i.Workload = a.nodeWorkload(a.control.Snapshot())
		case l.Frames && !l.L3:
			// Not only those with a default route: a second network and the
			// veth of a pod are ways out for a packet socket as well.
			i.Kind = loader.Uplink
		default:
			continue
		}
		out[l.Index] = i
	}
	return out, nil
}

// lookAtInterfaces guards what is to be guarded and leaves the rest.
func (a *Agent) lookAtInterfaces() {
	wanted, err := a.wantedInterfaces()
	if err != nil {
		a.log.Warn("interfaces could not be listed; they stay guarded as they are", "error", err)
		return
	}
	for _, i := range a.datapath.Guarded() {
		if w, ok := wanted[i.Index]; ok && w.Kind == i.Kind {
			continue
		}
		if err := a.datapath.Unguard(i.Index); err != nil {
			a.log.Warn("an interface that is gone", "interface", i.Name, "error", err)
		}
		a.log.Info("no longer guarded", "interface", i.Name)
	}
	guarded := map[int]bool{}
	for _, i := range a.datapath.Guarded() {
		guarded[i.Index] = true
	}
	a.guards.mu.Lock()
	defer a.guards.mu.Unlock()
	failed := map[string]string{}
	for _, index := range slices.Sorted(maps.Keys(wanted)) {
		i := wanted[index]
		a.guards.names[index] = i.Name
		if guarded[index] {
			continue
		}
		err := a.datapath.Guard(i)
		switch {
		case err == nil:
			a.log.Info("guarded", "interface", i.Name, "as", i.Kind.String())
		case errors.Is(err, unix.ENODEV):
			// It is gone already.
		default:
			failed[i.Name] = err.Error()
			if a.guards.failed[i.Name] == "" {
				a.log.Error("an interface could not be guarded; what comes by it passes", "interface", i.Name, "error", err)
			}
		}
	}
	a.guards.failed = failed
}

// regard tells the kernel of guarded interfaces that their workload has another
// policy.
func (a *Agent) regard() {
	node := a.nodeWorkload(a.control.Snapshot())
	for _, i := range a.datapath.Guarded() {
		if i.Kind != loader.WorkloadInterface || i.Workload == node {
			continue
		}
		i.Workload = node
		if err := a.datapath.Guard(i); err != nil {
			a.log.Error("an interface keeps its earlier policy", "interface", i.Name, "error", err)
		}
	}
}

// admitInbound lets go on what others opened to workloads before their
// interfaces were guarded, as far as the kernel's connection tracking knows it.
// Without it such a connection is judged by its address, as if the workload had
// opened it.
func (a *Agent) admitInbound() {
	wanted, err := a.wantedInterfaces()
	if err != nil {
		return // it is said when they are guarded
	}
	behind := map[int]bool{}
	for index, i := range wanted {
		if i.Kind == loader.WorkloadInterface {
			behind[index] = true
		}
	}
	if len(behind) == 0 {
		return
	}
	open, err := link.Inbound(behind)
	if err != nil {
		a.log.Info("no connection tracking: connections that others opened to workloads before are judged by their addresses", "error", err)
	}
	for _, c := range open {
		if err := a.datapath.AddInbound(c.Index, policy.Transport(c.Protocol), c.Src, c.Dst); err != nil {
			a.log.Warn("a connection that was open before is judged by its address", "from", c.Dst.String(), "error", err)
		}
	}
}

// interfaceName names an interface of an event.
func (a *Agent) interfaceName(index int) string {
	a.guards.mu.Lock()
	defer a.guards.mu.Unlock()
	return a.guards.names[index]
}

// InterfaceStatus is one guarded interface.
type InterfaceStatus struct {
	Name  string `json:"name"`
	As    string `json:"as"` // workload or uplink
	Error string `json:"error,omitempty"`
}

func (a *Agent) interfaceStatus() []InterfaceStatus {
	var out []InterfaceStatus
	for _, i := range a.datapath.Guarded() {
		out = append(out, InterfaceStatus{Name: i.Name, As: i.Kind.String()})
	}
	a.guards.mu.Lock()
	defer a.guards.mu.Unlock()
	for name, err := range a.guards.failed {
		out = append(out, InterfaceStatus{Name: name, As: "not guarded", Error: err})
	}
	slices.SortFunc(out, func(a, b InterfaceStatus) int { return strings.Compare(a.Name, b.Name) })
	return out
}
