// SPDX-License-Identifier: Apache-2.0

package resources

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
)

// leastGarbage is how much garbage comes at least before it is collected, in bytes. A
// daemon with a small policy would collect some megabytes ten times a second under load,
// which took a twentieth of the processor time of new connections and more.
const leastGarbage = 32 << 20

// LeaveGarbage has garbage collected when there is usual per cent of what lives, and no
// sooner than there is worth while, until end is called; unless GOGC says otherwise. What
// a cgroup leaves to the heap (LimitHeap) still counts.
func LeaveGarbage(usual int) (end func()) {
	if os.Getenv("GOGC") != "" {
		return func() {}
	}
	g := &garbage{usual: usual, set: usual}
	g.follow()
	return g.end
}

// garbage follows how much lives.
type garbage struct {
	usual int

	mu    sync.Mutex
	set   int // GOGC now
	ended bool
}

// collected is an object that nobody has, so that the next collection finds it.
type collected struct{ g *garbage }

// follow has look be called after the next collection.
func (g *garbage) follow() { runtime.AddCleanup(&collected{g}, (*garbage).look, g) }

// look is called after a collection.
func (g *garbage) look() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ended {
		return
	}
	// What garbage is measured by (runtime/mgcpacer.go).
	samples := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/stack:bytes"}, {Name: "/gc/scan/globals:bytes"}}
	metrics.Read(samples)
	var lives uint64
	for _, s := range samples {
		lives += s.Value.Uint64()
	}
	// The world stops for it.
	if percent := percentOf(lives, g.usual); percent > g.set+g.set/4 || percent < g.set-g.set/4 {
		debug.SetGCPercent(percent)
		g.set = percent
	}
	g.follow()
}

// percentOf is GOGC where so many bytes live.
func percentOf(lives uint64, usual int) int {
	return max(usual, int(leastGarbage*100/max(lives, 1<<20)))
}

// end has everything be as usual.
func (g *garbage) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ended = true
	debug.SetGCPercent(g.usual)
}
