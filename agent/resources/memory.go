// SPDX-License-Identifier: Apache-2.0

package resources

import (
	"log/slog"
	"math"
	"os"
	"runtime/debug"

	"github.com/egressd/egressd/internal/learned"
	"github.com/egressd/egressd/internal/memcg"
	"github.com/egressd/egressd/loader"
)

// LimitHeap logs what the kernel's tables take, in bytes, and makes Go's heap stay
// below what the memory cgroups leave beside them, unless GOMEMLIMIT says otherwise.
func LimitHeap(log *slog.Logger, tables uint64) {
	limitHeap(log, tables, memcg.Limits, func(n int64) {
		if os.Getenv("GOMEMLIMIT") == "" {
			debug.SetMemoryLimit(n)
		}
	})
}

func limitHeap(log *slog.Logger, tables uint64, limits func() ([]memcg.Limit, error), set func(int64)) {
	limit := "none"
	all, err := limits()
	if err != nil {
		log.Warn("the memory limits of egressd's cgroups could not all be read; its heap may grow beyond them", "error", err)
	}
	if l, ok := memcg.Least(all); ok {
		limit = memcg.MiB(l.Max) + " in " + l.Dir
		set(heapLimit(l.Max, tables))
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

// LearnedBounds are the shares of what is learned, by how many addresses the kernel's
// table may have; 0: the default.
func LearnedBounds(o *learned.Options, addresses int) {
	if addresses == 0 {
		addresses = loader.DefaultAddresses
	}
	names := addresses / 4 // which egd_names has
	o.MaxOpenings, o.MaxNodeOpenings = addresses/8, addresses/2
	o.MaxServerNames, o.MaxNodeServerNames = names/8, names/2
}
