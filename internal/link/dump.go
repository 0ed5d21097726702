// SPDX-License-Identifier: Apache-2.0

package link

import (
	"errors"

	"github.com/vishvananda/netlink"
)

// maxDumps bounds how often a listing is asked for again.
const maxDumps = 50

// Whole repeats a listing of netlink's until the kernel says that nothing changed
// while it was given (NLM_F_DUMP_INTR, linux/netlink.h): what came meanwhile may be
// missing in it, and that may be the interface that must be guarded. On a node where
// interfaces come and go all the time the last try's error is returned.
func Whole[T any](list func() ([]T, error)) ([]T, error) {
	for try := 1; ; try++ {
		all, err := list()
		if try == maxDumps || !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
}
