// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"log/slog"

	"github.com/egressd/egressd/internal/handover"
	"github.com/egressd/egressd/internal/learned"
)

// Handover leaves everything to an heir, or nothing: an heir that fails, or dies, leaves
// all to this daemon.
type Handover struct {
	// Descriptors duplicates the daemon's sockets.
	Descriptors func() (*handover.SocketSet, error)
	// TellHeir has answers learned by an heir before they are given; nil: by nobody.
	TellHeir func(learned.Successor)
	// EndShift ends the daemon's shift: when it returns nothing is accepted, and nothing
	// written that the heir could be writing.
	EndShift func()
	// Save saves what was learned, for the heir to read.
	Save func() error
	// Answered returns when the queries that were under way are answered.
	Answered func()
	Log      *slog.Logger
}

// successor is an heir that is prepared.
type successor interface {
	Learn(workload, name string, answers []learned.Record) error
	Serve() error
	Release()
	Withdraw(why error)
}

// To ends the daemon's shift for an heir that is prepared, and waits until that one
// serves. Without an heir returned this daemon goes on: by another shift, with the
// sockets that were kept, or, where there are none, with the shift that it has.
func (o Handover) To(c *handover.Channel) (*Heir, *handover.SocketSet) {
	kept, err := o.Descriptors()
	if err != nil {
		o.Log.Error("the sockets could not be collected for a takeover; this egressd goes on serving", "error", err)
		_ = c.Send(handover.Message{Kind: handover.Withdrawn, Error: err.Error()}, nil) // it sees the end
		c.Close()
		return nil, nil
	}
	h := NewHeir(c, o.Log)
	if !o.give(h, kept) {
		return nil, kept
	}
	return h, nil
}

// give says whether the heir has everything.
func (o Handover) give(h successor, kept *handover.SocketSet) bool {
	o.TellHeir(func(workload, name string, answers []learned.Record) {
		if err := h.Learn(workload, name, answers); err != nil {
			o.Log.Debug("an answer was not passed to the egressd that takes over", "name", name, "error", err)
		}
	})
	o.EndShift()
	err := o.Save()
	if err == nil {
		err = h.Serve()
	}
	if err == nil {
		kept.Close()
		h.Release()
		return true
	}
	o.Log.Error("another egressd failed to take over; this one goes on serving", "error", err)
	o.TellHeir(nil)
	h.Withdraw(err)
	o.Answered()
	return false
}
