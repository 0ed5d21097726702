// SPDX-License-Identifier: Apache-2.0

// Package tc puts programs on network interfaces where the kernel has no links for
// that, and keeps the rules and routes for packets that programs give to sockets.
package tc

import "github.com/cilium/ebpf"

// InterfaceProgram is a program and the direction in which it sees an interface.
type InterfaceProgram struct {
	Name   string
	Prog   *ebpf.Program
	Attach ebpf.AttachType
}

// Prefix begins the names of the programs on interfaces.
const Prefix = "egd_tc_"
