// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"log/slog"
	"math"
	"os"
	"runtime/debug"

	"github.com/egressd/egressd/internal/learned"
	"github.com/egressd/egressd/internal/memcg"
	"github.com/egressd/egressd/loader"
)

// memoryStatus reads it. A limit that cannot be read is left out.
func memoryStatus(d *loader.Datapath) MemoryStatus {
	s := MemoryStatus{Tables: d.Memory()}
	all, _ := memcg.Limits()
	if l, ok := memcg.Tightest(all); ok {
		s.Limit, s.Used, s.Cgroup = l.Max, l.Used, l.Dir
	}
	return s
}

// sayMemory logs what the tables take, and makes Go's heap stay below what the
// memory cgroups leave beside them, unless GOMEMLIMIT says otherwise.
func sayMemory(log *slog.Logger, d *loader.Datapath) {
	tables := d.Memory()
	limit := "none"
	all, err := memcg.Limits()
	if err != nil {
		log.Warn("the memory limits of egressd's cgroups could not all be read; its heap may grow beyond them", "error", err)
	}
	if l, ok := memcg.Least(all); ok {
		limit = memcg.MiB(l.Max) + " in " + l.Dir
		if os.Getenv("GOMEMLIMIT") == "" {
			debug.SetMemoryLimit(heapLimit(l.Max, tables))
		}
	}
	log.Info("kernel tables created", "memory", memcg.MiB(tables), "limit", limit)
}

// heapLimit is how much Go may use where a cgroup may have limit bytes and the
// tables take a part: nine tenths of the rest, for programs, sockets and the
// tables' growth are the cgroup's as well. It is a soft limit, and one that is
// too low would be all collecting.
func heapLimit(limit, tables uint64) int64 {
	const least = 16 << 20
	return int64(min(max((limit-min(limit, tables))/10*9, least), math.MaxInt64))
}

// tableSizes are the sizes of the tables, of which a daemon that guards no
// interface has none for their flows.
func (o *Options) tableSizes() loader.Sizes {
	s := o.Sizes
	s.NoInterfaces = !o.Guard.Workloads()
	return s
}

// learnedBounds are the shares of what is learned, by what the tables may have.
func learnedBounds(o *learned.Options, addresses int) {
	if addresses == 0 {
		addresses = loader.DefaultAddresses
	}
	names := addresses / 4 // which egd_names has
	o.MaxOpenings, o.MaxNodeOpenings = addresses/8, addresses/2
	o.MaxServerNames, o.MaxNodeServerNames = names/8, names/2
}
