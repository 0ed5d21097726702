// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/world"
)

// leakWait bounds how long something that is on its way out is waited for.
const leakWait = 5 * time.Second

// Main runs the tests of a package and then fails if they left goroutines,
// descriptors, network namespaces, cgroups, state directories or, below
// pinDirs, BPF pins behind. Use it as
//
//	func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }
//
// m is a *testing.M, or what wraps one to end what its tests share.
func Main(m interface{ Run() int }, pinDirs ...string) int {
	if socket := os.Getenv(elsewhere); socket != "" {
		return serveElsewhere(socket)
	}
	_ = os.Stderr.Sync() // makes the runtime open what it opens lazily, before the count
	before := fds()
	namespaces := named()
	code := m.Run()
	if code != 0 {
		return code // a failed test leaks; its own message is what matters
	}
	found := settle(func() []string {
		left := goroutines()
		left = append(left, leakedFDs(before, fds())...)
		for _, ns := range named() {
			if !slices.Contains(namespaces, ns) {
				left = append(left, "network namespace "+ns)
			}
		}
		for _, path := range world.Leftovers(os.Getpid()) {
			left = append(left, "left over: "+path)
		}
		for _, dir := range pinDirs {
			for _, pin := range pins(dir) {
				left = append(left, "pin "+pin)
			}
		}
		return left
	})
	if len(found) == 0 {
		return 0
	}
	fmt.Fprintf(os.Stderr, "the tests left behind:\n%s\n", strings.Join(found, "\n"))
	return 1
}

// settle asks until the answer is empty or leakWait has passed. Nothing tells
// when a goroutine that was asked to end has ended, so it has to poll.
func settle(left func() []string) []string {
	deadline := time.Now().Add(leakWait)
	for {
		found := left()
		if len(found) == 0 || time.Now().After(deadline) {
			return found
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// NoGoroutineLeak fails the test if at its end, after the cleanups that are
// registered later, goroutines run that did not run at this call. It is for
// tests that do not run in parallel with others.
func NoGoroutineLeak(t testing.TB) {
	t.Helper()
	before := map[string]bool{}
	for _, g := range goroutines() {
		before[goroutineID(g)] = true
	}
	t.Cleanup(func() {
		found := settle(func() []string {
			return slices.DeleteFunc(goroutines(), func(g string) bool { return before[goroutineID(g)] })
		})
		if len(found) > 0 {
			t.Errorf("goroutines left:\n%s", strings.Join(found, "\n\n"))
		}
	})
}

// goroutineID is the "goroutine 12" of a stack.
func goroutineID(stack string) string {
	id, _, _ := strings.Cut(stack, " [")
	return id
}

// expected are functions whose goroutines belong to the runtime and to the
// testing package.
var expected = [...]string{
	"testing.Main(", "testing.(*M).", "testing.tRunner(", "testing.runFuzzing(", "testing.runTests(",
	"os/signal.signal_recv", "os/signal.loop", "runtime.gc", "runtime.MHeap_Scavenger",
	"runtime.ReadTrace", "internal/fuzz.", "testing/internal/testdeps.",
}

// goroutines returns the stacks of all goroutines but the caller's and those
// of the runtime.
func goroutines() []string {
	buf := make([]byte, 1<<20)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	stacks := strings.Split(string(buf), "\n\n")[1:] // the first is this goroutine
	return slices.DeleteFunc(stacks, func(stack string) bool {
		return slices.ContainsFunc(expected[:], func(f string) bool { return strings.Contains(stack, f) })
	})
}

// fds maps this process's descriptors to what they are.
func fds() map[string]string {
	out := map[string]string{}
	entries, _ := os.ReadDir("/proc/self/fd") // without /proc there is nothing to compare
	for _, e := range entries {
		if target, err := os.Readlink(filepath.Join("/proc/self/fd", e.Name())); err == nil {
			out[e.Name()] = target
		}
	}
	return out
}

// leakedFDs lists what is open after and was not before. The runtime's poller
// and the pidfd probe of package os stay open once they were needed.
func leakedFDs(before, after map[string]string) []string {
	var out []string
	for fd, target := range after {
		if before[fd] == target || strings.HasPrefix(target, "anon_inode:[event") ||
			target == "anon_inode:[pidfd]" || strings.HasPrefix(target, "/proc/") {
			continue
		}
		out = append(out, "descriptor "+fd+": "+target)
	}
	slices.Sort(out)
	return out
}

// named lists the network namespaces with names.
func named() []string {
	found, _ := filepath.Glob("/run/netns/*") // the pattern is good
	return found
}
