// SPDX-License-Identifier: Apache-2.0

package link

import (
	"errors"
	"fmt"
	"testing"

	"github.com/vishvananda/netlink"
)

// TestWhole: a listing that was interrupted is asked for again, other errors are not.
func TestWhole(t *testing.T) {
	interrupted := fmt.Errorf("list: %w", netlink.ErrDumpInterrupted)
	broken := errors.New("broken")
	for _, c := range []struct {
		name  string
		fails int
		err   error
		want  error
		asked int
	}{
		{"at once", 0, nil, nil, 1},
		{"third time", 2, interrupted, nil, 3},
		{"never", maxDumps, interrupted, netlink.ErrDumpInterrupted, maxDumps},
		{"another error", 1, broken, broken, 1},
	} {
		asked := 0
		got, err := Whole(func() ([]int, error) {
			if asked++; asked <= c.fails {
				return nil, c.err
			}
			return []int{1}, nil
		})
		if !errors.Is(err, c.want) || asked != c.asked || (err == nil) != (len(got) == 1) {
			t.Errorf("%s: %v, %v after %d questions", c.name, got, err, asked)
		}
	}
}
