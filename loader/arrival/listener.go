// SPDX-License-Identifier: Apache-2.0

package arrival

import (
	"os"

	"golang.org/x/sys/unix"
)

// SaveSYN makes a TCP listener keep the SYN of each connection (tcp(7)
// TCP_SAVE_SYN), for Of.
func SaveSYN(fd uintptr) error {
	return os.NewSyscallError("setsockopt TCP_SAVE_SYN", unix.SetsockoptInt(int(fd), unix.SOL_TCP, unix.TCP_SAVE_SYN, 1))
}

// LocalOnly makes a socket deaf to what comes from outside of the machine: a
// listener at an address of a device is for this machine's sockets, whose packets
// reach it by loopback (index 1 in every network namespace).
func LocalOnly(fd uintptr) error {
	const ifindex = 1<<32 - 0x1000 + 8 // SKF_AD_OFF + SKF_AD_IFINDEX (linux/filter.h)
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: ifindex},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 1, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 1<<32 - 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	err := unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
	return os.NewSyscallError("setsockopt SO_ATTACH_FILTER", err)
}
