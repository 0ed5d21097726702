// SPDX-License-Identifier: Apache-2.0

// Package telemetry reads what the kernel programs say of their decisions: events
// of a ring, and counters.
package telemetry

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
)

// lookInterval is how often the ring is read when nothing wakes the reader:
// the kernel programs wake it for denials only.
const lookInterval = 100 * time.Millisecond

// Ring is the ring that the kernel programs write events to.
type Ring struct {
	reader   *ringbuf.Reader
	draining atomic.Bool
}

// OpenRing opens it to be read.
func OpenRing(m *ebpf.Map) (*Ring, error) {
	r, err := ringbuf.NewReader(m)
	if err != nil {
		return nil, fmt.Errorf("open the event ring: %w", err)
	}
	return &Ring{reader: r}, nil
}

// Close makes Each return.
func (r *Ring) Close() error { return r.reader.Close() }

// Each calls f for each event of the kernel, in order, until Close or Drain, after
// which it can be called again. A record that cannot be read is skipped.
func (r *Ring) Each(f func(KernelEvent)) error {
	defer r.draining.Store(false)
	stop := make(chan struct{})
	var looking sync.WaitGroup
	looking.Go(func() {
		tick := time.NewTicker(lookInterval)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				_ = r.reader.Flush() // fails when the ring is closed, which Each finds out
			}
		}
	})
	defer looking.Wait()
	defer close(stop)
	var rec ringbuf.Record
	for {
		err := r.reader.ReadInto(&rec)
		switch {
		case errors.Is(err, ringbuf.ErrClosed):
			return nil
		case errors.Is(err, ringbuf.ErrFlushed):
			if r.draining.Load() {
				return nil
			}
			continue
		case err != nil:
			return fmt.Errorf("read the event ring: %w", err)
		}
		if e, ok := parseEvent(rec.RawSample); ok {
			f(e)
		}
	}
}

// Drain makes Each hand out what is in the ring now and then return.
func (r *Ring) Drain() error {
	r.draining.Store(true)
	return r.reader.Flush()
}
