// SPDX-License-Identifier: Apache-2.0

package own

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/egressd/egressd/internal/ipguard"
	"github.com/egressd/egressd/internal/link"
)

// watchAgain is how long a daemon that cannot be told waits between two looks.
const watchAgain = 5 * time.Second

// Datapath is what is needed of the kernel's side.
type Datapath interface {
	// SetOwn says which addresses are the node's, RaiseEpoch has what is open judged
	// anew.
	SetOwn([]netip.Prefix) error
	RaiseEpoch() error
}

// Names closes learned addresses that the node has by now, and says how many.
type Names interface {
	Recheck() (closed int, err error)
}

// Read reads the node's own addresses, which no answer may name, before anything is
// learned, and tells the kernel, for which they are the node.
func Read(addresses *ipguard.Addresses, d Datapath) error { return read(addresses, d, link.Own) }

func read(addresses *ipguard.Addresses, d Datapath, list func() ([]netip.Prefix, error)) error {
	own, err := list()
	if err != nil {
		return fmt.Errorf("what the node's own addresses are is not known, so no DNS answer could be trusted: %w", err)
	}
	addresses.Set(own)
	return d.SetOwn(own)
}

// AddressWatcher follows the node's addresses as they come and go.
type AddressWatcher struct {
	o     Options
	list  func() ([]netip.Prefix, error)
	watch func(context.Context, func()) error
	again time.Duration
}

// Options of an AddressWatcher.
type Options struct {
	Addresses *ipguard.Addresses
	Datapath  Datapath
	Names     Names
	// Recheck decides open connections anew.
	Recheck func()
	Log     *slog.Logger
}

// NewAddressWatcher makes one for the network namespace of the calling thread.
func NewAddressWatcher(o Options) *AddressWatcher {
	return &AddressWatcher{o: o, list: link.Own, watch: link.WatchOwn, again: watchAgain}
}

// Run looks at the addresses when they may have changed, and calls changed after each
// look, until ctx ends.
func (w *AddressWatcher) Run(ctx context.Context, changed func()) {
	look := func() { w.look(); changed() }
	for ctx.Err() == nil {
		if err := w.watch(ctx, look); err != nil {
			w.o.Log.Error("the node's addresses cannot be watched; egressd reads them every few seconds instead", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(w.again):
			look()
		}
	}
}

// look reads the addresses anew. What was learned before the node had it as an
// address of its own is closed, and connections are decided again.
func (w *AddressWatcher) look() {
	log := w.o.Log
	own, err := w.list()
	if err != nil {
		log.Warn("the node's addresses could not be listed; egressd goes on with those that it knows", "error", err)
		return
	}
	more := w.o.Addresses.Set(own)
	if err := w.o.Datapath.SetOwn(own); err != nil {
		log.Error("the kernel could not be told of the node's addresses; connections of the node's processes to new ones may be refused", "error", err)
	}
	if !more {
		return
	}
	closed, err := w.o.Names.Recheck()
	if err != nil {
		log.Error("a learned address that belongs to the node now could not be closed; workloads may still reach it; egressd tries again", "error", err)
	}
	if closed == 0 {
		return
	}
	log.Warn("learned addresses belong to the node now; workloads may not reach them any more", "count", closed)
	if err := w.o.Datapath.RaiseEpoch(); err != nil {
		log.Error("open connections to an address that belongs to the node now could not be checked again; they continue", "error", err)
	}
	w.o.Recheck()
}
