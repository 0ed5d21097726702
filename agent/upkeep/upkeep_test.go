// SPDX-License-Identifier: Apache-2.0

package upkeep

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestUpkeep: a sweep that fails is told of with what it means and keeps no other one,
// and what waits for a beat hears whether it goes on or hangs.
func TestUpkeep(t *testing.T) {
	var said strings.Builder
	var did []string
	hangs, goOn := make(chan struct{}), make(chan struct{})
	do := func(name string, err error) func() error {
		return func() error {
			did = append(did, name)
			return err
		}
	}
	u := New(slog.New(slog.NewTextHandler(&said, nil)), func() {
		did = append(did, "save")
		close(hangs)
		<-goOn
	}, Sweep{do("first", errors.New("refused")), "the first is not swept"}, Sweep{do("second", nil), "never said"})
	ctx, cancel := context.WithCancel(t.Context())
	sweep, save := make(chan time.Time), make(chan time.Time)
	var running sync.WaitGroup
	running.Go(func() { u.run(ctx, sweep, save) })
	sweep <- time.Time{}
	if err := u.Beat(t.Context()); err != nil {
		t.Errorf("it goes on: %v", err)
	}
	if got := strings.Join(did, " "); got != "first second" {
		t.Errorf("swept %s", got)
	}
	if got := said.String(); !strings.Contains(got, "the first is not swept") || !strings.Contains(got, "refused") || strings.Contains(got, "never said") {
		t.Errorf("said %s", got)
	}
	save <- time.Time{}
	<-hangs
	late, stop := context.WithCancel(t.Context())
	stop()
	if err := u.Beat(late); !errors.Is(err, context.Canceled) {
		t.Errorf("it hangs: %v", err)
	}
	close(goOn)
	if err := u.Beat(t.Context()); err != nil {
		t.Errorf("it goes on again: %v", err)
	}
	cancel()
	running.Wait()
	if err := u.Beat(late); !errors.Is(err, context.Canceled) {
		t.Errorf("it has ended: %v", err)
	}
}
