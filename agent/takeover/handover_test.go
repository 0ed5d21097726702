// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/handover"
	"github.com/egressd/egressd/internal/learned"
	"github.com/egressd/egressd/internal/testenv"
)

var errStep = errors.New("this step fails")

// giver is a daemon that hands over, and its heir: it writes down what each does, and
// fails where the test says.
type giver struct {
	steps []string
	fails string
	tells learned.Successor
}

func (g *giver) step(name string) error {
	g.steps = append(g.steps, name)
	if g.fails == name {
		return errStep
	}
	return nil
}

func (g *giver) handover() Handover {
	return Handover{
		Descriptors: func() (*handover.SocketSet, error) { return &handover.SocketSet{}, g.step("descriptors") },
		TellHeir: func(s learned.Successor) {
			if g.tells = s; s == nil {
				_ = g.step("tell nobody")
				return
			}
			_ = g.step("tell heir")
		},
		EndShift: func() {
			_ = g.step("end")
			// An answer that is on its way when the shift ends: the heir learns it.
			g.tells("w", "a.example", nil)
		},
		Save:     func() error { return g.step("save") },
		Answered: func() { _ = g.step("answered") },
		Log:      quiet,
	}
}

func (g *giver) Learn(string, string, []learned.Record) error { return g.step("learn") }
func (g *giver) Serve() error                                 { return g.step("serve") }
func (g *giver) Release()                                     { _ = g.step("release") }
func (g *giver) Withdraw(error)                               { _ = g.step("withdraw") }

// TestHandoverOrder: the heir is told of answers before the shift ends, and serves when
// all is saved. One that fails does nothing more when this daemon goes on, and hears of
// no more answers; every query that began is answered before.
func TestHandoverOrder(t *testing.T) {
	back := []string{"tell nobody", "withdraw", "answered"}
	all := []string{"tell heir", "end", "learn", "save", "serve"}
	for fails, want := range map[string][]string{
		"":      append(slices.Clone(all), "release"),
		"learn": append(slices.Clone(all), "release"), // the answer waits to be asked for again
		"save":  append(slices.Clone(all[:4]), back...),
		"serve": append(slices.Clone(all), back...),
	} {
		g := &giver{fails: fails}
		gave := g.handover().give(g, &handover.SocketSet{})
		if !slices.Equal(g.steps, want) {
			t.Errorf("%q fails: %s, want %s", fails, strings.Join(g.steps, ", "), strings.Join(want, ", "))
		}
		if gave != (want[len(want)-1] == "release") {
			t.Errorf("%q fails: the heir has it: %t", fails, gave)
		}
	}
}

// TestHandoverWithoutSockets: a daemon that cannot collect its sockets keeps its shift,
// and the one that comes hears why.
func TestHandoverWithoutSockets(t *testing.T) {
	testenv.RequireRoot(t)
	d := newDaemon(t)
	h := d.reach(t)
	asked := make(chan error, 1)
	go func() { asked <- h.Quiesce(nil) }()
	g := &giver{fails: "descriptors"}
	heir, kept := g.handover().To(<-d.prepared)
	if heir != nil || kept != nil || !slices.Equal(g.steps, []string{"descriptors"}) {
		t.Errorf("%v, %v, %q", heir, kept, g.steps)
	}
	if err := <-asked; !errors.Is(err, handover.ErrWithdrawn) || !strings.Contains(err.Error(), errStep.Error()) {
		t.Errorf("the one that comes hears %v", err)
	}
}
