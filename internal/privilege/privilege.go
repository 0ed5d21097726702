// SPDX-License-Identifier: Apache-2.0

// Package privilege knows the capabilities (capabilities(7)) that the daemon needs,
// what each is for, and which of them this process has not.
package privilege

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Capability is one that the daemon needs.
type Capability struct {
	Name string // as in CAP_NET_ADMIN
	// For is what it is needed for, to be put behind "to".
	For    string
	number int
}

// Needed are the capabilities of a daemon, with those of one that has listeners for
// Gateways. CAP_BPF and CAP_PERFMON are not among them: CAP_SYS_ADMIN includes both
// (include/linux/capability.h, bpf_capable, perfmon_capable).
func Needed(gateway bool) []Capability {
	all := []Capability{
		{"CAP_NET_ADMIN", "attach programs to cgroups, interfaces and routes, and end sockets", unix.CAP_NET_ADMIN},
		{"CAP_SYS_ADMIN", "load programs, look at those of an earlier run (BPF_PROG_GET_FD_BY_ID), and enter the network namespaces of pods and containers", unix.CAP_SYS_ADMIN},
		{"CAP_SYS_PTRACE", "see the network namespaces and sockets of other users' processes", unix.CAP_SYS_PTRACE},
		{"CAP_DAC_READ_SEARCH", "find a cgroup by the id that the kernel knows it by, and see that it is gone (open_by_handle_at)", unix.CAP_DAC_READ_SEARCH},
	}
	if gateway {
		all = append(all, Capability{"CAP_NET_BIND_SERVICE", "listen at ports below 1024 for Gateways", unix.CAP_NET_BIND_SERVICE})
	}
	return all
}

// Missing are those of the capabilities that this process has not; none when the
// kernel does not tell.
func Missing(needed []Capability) (out []Capability) {
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&h, &data[0]); err != nil {
		return nil
	}
	for _, c := range needed {
		if data[c.number/32].Effective&(1<<(c.number%32)) == 0 {
			out = append(out, c)
		}
	}
	return out
}

// Check is an error that names the needed capabilities that this process has not,
// what each is for, and what to do. Nil: it has all.
func Check(needed []Capability) error {
	missing := Missing(needed)
	if len(missing) == 0 {
		return nil
	}
	var names, why []string
	for _, c := range missing {
		names = append(names, c.Name)
		why = append(why, fmt.Sprintf("%s to %s", c.Name, c.For))
	}
	return fmt.Errorf("egressd has not the capabilities %s. It needs %s. Run it as root of the node, in a unit without CapabilityBoundingSet=, "+
		"or in a container with these added (securityContext.capabilities.add)", strings.Join(names, ", "), strings.Join(why, "; "))
}
