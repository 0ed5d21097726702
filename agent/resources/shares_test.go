// SPDX-License-Identifier: Apache-2.0

package resources

import (
	"errors"
	"testing"

	"github.com/egressd/egressd/forward"
	"github.com/egressd/egressd/internal/capacity"
)

// TestTell: the kernel and the forwarding cores count by the ports that there are now,
// also when the kernel cannot be told; it is tried again with the last number.
func TestTell(t *testing.T) {
	l := divide(ConnectionLimits{}, capacity.Capacity{Files: 1 << 16, Memory: 1 << 30, Ports: 1000})
	ports, failed := 1000, error(nil)
	l.count = func() int { return ports }
	var told []int
	tell := func(room int) error {
		told = append(told, room)
		return failed
	}
	core := forward.New(forward.Options{Limits: l.Forward})
	defer func() {
		if err := core.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	total := func() int64 { return core.Stats().Ports.Max }
	for _, c := range []struct {
		ports int
		err   error
	}{{1000, nil}, {600, nil}, {2000, errors.New("refused")}, {2000, nil}} {
		ports, failed = c.ports, c.err
		if err := l.Tell(tell); !errors.Is(err, c.err) {
			t.Errorf("%d ports: %v", c.ports, err)
		}
		if want := c.ports / 2; told[len(told)-1] != want || total() != int64(want) {
			t.Errorf("%d ports: told %v, the cores may have %d", c.ports, told, total())
		}
	}
	if len(told) != 4 {
		t.Errorf("told %v", told)
	}
}
