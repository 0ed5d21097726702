// SPDX-License-Identifier: Apache-2.0

// Package capacity says what descriptors, memory and ports there are for egressd,
// and divides them among its parts so that none takes what another one needs.
package capacity

import (
	"bytes"
	"fmt"
	"log/slog"
	"math"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/memcg"
)

// Capacity is what there is.
type Capacity struct {
	Files  uint64 // file descriptors
	Memory int64  // bytes
	Ports  int    // ephemeral ports of the network namespace
}

// Plan is who may have how much of it.
type Plan struct {
	// Descriptors, Memory (bytes) and Ports are for forwarding.
	Descriptors, Memory, Ports int64
	// Queries and Conns are how many DNS queries may be answered at once and how
	// many DNS connections may be open; each of them takes a descriptor.
	// QueriesEach and ConnsEach are what one workload may have.
	Queries, QueriesEach, Conns, ConnsEach int
}

// Descriptors and memory that are for neither forwarding nor DNS: listeners, the
// kernel's tables, files, the interfaces for operators; the process itself, its
// tables in the kernel, which its cgroup may be charged with.
const (
	ownDescriptors = 256
	ownMemory      = 64 << 20
	minMemory      = 8 << 20
	// maxDescriptors bounds what is handed out where the limit is none.
	maxDescriptors = 512 << 10
)

// What DNS has where there is enough.
const (
	maxQueries = 1024
	maxConns   = 512
)

// Divide makes the plan. Where descriptors are few, egressd's own half and DNS's
// quarter of the rest come first.
func (c Capacity) Divide() Plan {
	files := int64(min(c.Files, maxDescriptors))
	rest := files - min(max(ownDescriptors, files/16), files/2) // each guarded interface takes some
	p := Plan{
		Queries: int(max(4, min(maxQueries, rest/6))),
		Conns:   int(max(4, min(maxConns, rest/12))),
		Memory:  max(min(c.Memory/2, c.Memory-ownMemory), minMemory),
		Ports:   int64(LoopbackRoom(c.Ports)),
	}
	p.QueriesEach, p.ConnsEach = p.Queries/4, max(1, p.Conns/8)
	p.Descriptors = max(0, rest-int64(p.Queries+p.Conns))
	return p
}

// LoopbackRoom is how many redirected connections the ephemeral ports of one pair
// of addresses are for, as the kernel counts them, by the workloads' sockets, and as
// the forwarding core counts them, by its own. Who has ended its side of a
// connection is in one of the counts only, so each may have half.
func LoopbackRoom(ports int) int { return ports / 2 }

// Measure finds out what there is, and raises the soft limit of descriptors to the
// hard one.
func Measure(log *slog.Logger) Capacity {
	return Capacity{Files: descriptorLimit(log), Memory: memoryLimit(), Ports: Ports()}
}

// descriptorLimit raises the soft limit to the hard one, and returns it.
func descriptorLimit(log *slog.Logger) uint64 {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		log.Warn("the limit of open files could not be read; egressd serves as many connections as 1,024 files allow", "error", err)
		return 1024
	}
	if l.Cur < l.Max {
		raised := unix.Rlimit{Cur: l.Max, Max: l.Max}
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &raised); err != nil {
			log.Warn("the limit of open files could not be raised; fewer proxied connections are possible; set LimitNOFILE=", "limit", l.Cur, "error", err)
			return l.Cur
		}
	}
	return l.Max
}

// memoryLimit is the machine's memory, or the least of what egressd's cgroups
// allow, in bytes.
func memoryLimit() int64 {
	limit := uint64(math.MaxInt64)
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		limit = uint64(info.Totalram) * uint64(info.Unit)
	}
	all, _ := memcg.Limits()
	if l, ok := memcg.Least(all); ok {
		limit = min(limit, l.Max)
	}
	return int64(limit)
}

// defaultPorts is what Linux has if nobody changes it: 32768 to 60999.
const defaultPorts = 28232

// Ports is how many ephemeral ports the calling thread's network namespace has
// (ip_local_port_range, without ip_local_reserved_ports; IPv6 uses the same). What
// cannot be read is taken for the default.
func Ports() int {
	const dir = "/proc/sys/net/ipv4/"
	text, err := os.ReadFile(dir + "ip_local_port_range")
	if err != nil {
		return defaultPorts
	}
	reserved, err := os.ReadFile(dir + "ip_local_reserved_ports")
	if err != nil {
		reserved = nil
	}
	n, err := countPorts(text, reserved)
	if err != nil {
		return defaultPorts
	}
	return n
}

// countPorts reads a range ("32768\t60999") and a list of what is not used of it
// ("40000-40010,50000").
func countPorts(text, reserved []byte) (int, error) {
	var low, high int
	if _, err := fmt.Sscan(string(text), &low, &high); err != nil {
		return 0, err
	}
	n := high - low + 1
	for item := range bytes.SplitSeq(bytes.TrimSpace(reserved), []byte(",")) {
		if len(item) == 0 {
			continue
		}
		first, last, isRange := bytes.Cut(item, []byte("-"))
		if !isRange {
			last = first
		}
		from, err1 := strconv.Atoi(string(first))
		to, err2 := strconv.Atoi(string(last))
		if err1 != nil || err2 != nil {
			return 0, fmt.Errorf("%q is no range of ports", item)
		}
		n -= max(0, min(to, high)-max(from, low)+1)
	}
	return n, nil
}
