// SPDX-License-Identifier: Apache-2.0

// Package abi turns values between the form that the kernel programs have them in
// and Go's.
package abi

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// Command reads a NUL-terminated comm; generated types have it as int8s or
// uint8s, depending on how C's char is declared.
func Command[T int8 | uint8](comm []T) string {
	b := make([]byte, 0, len(comm))
	for _, c := range comm {
		if c == 0 {
			break
		}
		b = append(b, byte(c))
	}
	return string(b)
}

// Now is CLOCK_MONOTONIC in nanoseconds, as bpf_ktime_get_ns reads it.
func Now() (uint64, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0, fmt.Errorf("read the monotonic clock: %w", err)
	}
	return uint64(ts.Nano()), nil
}

// Port converts a port between host and network order, both ways.
func Port(p uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], p)
	return binary.NativeEndian.Uint16(b[:])
}
