// SPDX-License-Identifier: Apache-2.0

// Package hold remembers which of the kernel's side egressd could not keep in
// place, tells people when that changes, and counts.
package hold

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/loader/bpffs"
	"github.com/egressd/egressd/loader/foreign"
)

// State is what the status says.
type State struct {
	// Failures are what is missing and could not be put back.
	Failures []Failure `json:"failures,omitempty"`
	// Foreign are programs of others at the hooks of the captured cgroup.
	Foreign []foreign.Program `json:"foreign,omitempty"`
}

// Failure is something that is missing in the kernel.
type Failure struct {
	Kind  loader.FaultKind `json:"kind"`
	What  string           `json:"what"`
	Error string           `json:"error"`
	// Traffic says what is open because of it.
	Traffic string `json:"traffic"`
}

func (f Failure) key() string { return string(f.Kind) + " " + f.What }

// Keeper keeps the State. Its methods are safe for concurrent use. Make one with
// NewKeeper.
type Keeper struct {
	log     *slog.Logger
	mu      sync.Mutex
	failed  map[string]Failure
	foreign []foreign.Program
	repairs map[loader.FaultKind]uint64
}

// NewKeeper makes a Keeper that knows of no failure.
func NewKeeper(log *slog.Logger) *Keeper {
	return &Keeper{log: log, failed: map[string]Failure{}, repairs: map[loader.FaultKind]uint64{}}
}

// traffic says what the lack of something means.
func traffic(k loader.FaultKind, what string) string {
	switch k {
	case loader.PinFault:
		return "the policy is in force, but if egressd ends or is killed all traffic is open"
	case loader.ListenerFault:
		return "what is redirected to this listener is refused"
	case loader.InterfaceFault:
		if strings.Contains(what, "steered packets") {
			return "proxied traffic and DNS of guarded interfaces may be routed to where they were sent, and are NOT filtered then"
		}
		return "traffic that comes in by this interface, or leaves by it as raw frames, is NOT filtered"
	}
	switch {
	case strings.HasPrefix(what, "egd_connect"):
		return "captured processes may connect to any address"
	case what == "egd_skb_egress":
		return "datagrams of the captured processes, and names of TLS connections, are not checked"
	case what == "egd_sock_create":
		return "captured processes may open raw sockets and send anything by them"
	case strings.HasPrefix(what, "egd_bind"):
		return "captured processes may take the ports of egressd when it does not run"
	}
	return "connections that need this program are refused, or show another address of their peer"
}

const (
	fixHook     = "check with \"bpftool cgroup show\" that no other program took its place, and restart egressd; \"egressd unload\" opens all traffic"
	fixPin      = "check that nobody removes pins or unmounts the bpf filesystem, and that no other egressd has the directory; mount it again (mount -t bpf bpffs " + bpffs.Root + ") or restart egressd"
	fixOther    = "restart egressd"
	sayMissing  = "something of egressd is missing in the kernel and could not be put back; egressd is not ready"
	sayRepaired = "something of egressd was missing in the kernel and was put back"
	sayAgain    = "everything of egressd is in place in the kernel again"
)

func fix(k loader.FaultKind) string {
	switch k {
	case loader.HookFault:
		return fixHook
	case loader.PinFault:
		return fixPin
	}
	return fixOther
}

// Saw takes what a look found: one line is written for what changed since the one
// before. It
// returns whether programs were put back at their hooks.
func (k *Keeper) Saw(faults []loader.Loss) (rehooked bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := map[string]Failure{}
	repaired := map[loader.FaultKind][]string{}
	for _, f := range faults {
		if f.Err != nil {
			one := Failure{Kind: f.Kind, What: f.What, Error: f.Err.Error(), Traffic: traffic(f.Kind, f.What)}
			now[one.key()] = one
			continue
		}
		k.repairs[f.Kind]++
		repaired[f.Kind] = append(repaired[f.Kind], f.What)
	}
	for _, kind := range slices.Sorted(maps.Keys(repaired)) {
		k.log.Warn(sayRepaired+"; another process had removed it", "kind", kind, "what", strings.Join(repaired[kind], ", "),
			"traffic", "until now: "+traffic(kind, repaired[kind][len(repaired[kind])-1]))
	}
	k.tell(now)
	k.failed = now
	return len(repaired[loader.HookFault]) > 0
}

// tell writes what failed since the last look, a line a kind, and that all is well
// again.
func (k *Keeper) tell(now map[string]Failure) {
	fresh := map[loader.FaultKind][]Failure{}
	for _, key := range slices.Sorted(maps.Keys(now)) {
		if was, ok := k.failed[key]; !ok || was.Error != now[key].Error {
			fresh[now[key].Kind] = append(fresh[now[key].Kind], now[key])
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(fresh)) {
		all := fresh[kind]
		names := make([]string, len(all))
		for i, f := range all {
			names[i] = f.What
		}
		last := all[len(all)-1]
		k.log.Error(sayMissing, "kind", kind, "missing", strings.Join(names, ", "), "traffic", last.Traffic, "do", fix(kind), "error", last.Error)
	}
	if len(now) == 0 && len(k.failed) > 0 {
		k.log.Info(sayAgain)
	}
}

// SawForeign takes the foreign programs that are at the hooks now.
func (k *Keeper) SawForeign(now []foreign.Program) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, p := range now {
		// Those of an egressd around this one are no strangers.
		if slices.Contains(k.foreign, p) || !p.Rewrites() || strings.HasPrefix(p.Name, "egd_") {
			continue
		}
		means := "the policy decides about the address that this program writes"
		if !p.Before {
			means = "a connection or datagram that this program sends to another address than the one that the policy allowed is refused"
		}
		k.log.Warn("another BPF program is attached at egressd's hook and may change destinations",
			"hook", p.Hook, "id", p.ID, "name", p.Name, "cgroup", p.Cgroup, "before", p.Before, "traffic", means, "remove", p.Detach())
	}
	k.foreign = slices.Clone(now)
}

// Err is why egressd does not hold; nil: it does.
func (k *Keeper) Err() error {
	s := k.State()
	if len(s.Failures) == 0 {
		return nil
	}
	errs := make([]error, len(s.Failures))
	for i, f := range s.Failures {
		errs[i] = fmt.Errorf("%s: %s: %s", f.What, f.Traffic, f.Error)
	}
	return errors.Join(errs...)
}

// State returns what the status says.
func (k *Keeper) State() State {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := State{Foreign: slices.Clone(k.foreign), Failures: slices.Collect(maps.Values(k.failed))}
	slices.SortFunc(s.Failures, func(a, b Failure) int { return cmp.Compare(a.key(), b.key()) })
	return s
}

// Counts returns, for every kind, how much is missing now and how often something
// was put back.
func (k *Keeper) Counts() (failures, repairs map[loader.FaultKind]uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	failures, repairs = map[loader.FaultKind]uint64{}, map[loader.FaultKind]uint64{}
	for _, kind := range loader.FaultKinds() {
		failures[kind], repairs[kind] = 0, k.repairs[kind]
	}
	for _, f := range k.failed {
		failures[f.Kind]++
	}
	return failures, repairs
}
