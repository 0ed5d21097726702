// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/world"
)

// stoppedChild stops a child of a process that has not called execve yet, and so has
// the descriptors of its parent: all of its sockets. 0: there is none now.
func stoppedChild(pid int) int {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid)) // the pattern is a good one
	for _, list := range lists {
		text, _ := os.ReadFile(list) // of a thread that ended
		for word := range strings.FieldsSeq(string(text)) {
			child, err := strconv.Atoi(word)
			if err != nil || syscall.Kill(child, syscall.SIGSTOP) != nil {
				continue
			}
			sockets := 0
			all, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", child))
			for _, fd := range all {
				if to, err := os.Readlink(fd); err == nil && strings.HasPrefix(to, "socket:") {
					sockets++
				}
			}
			if sockets > 10 {
				return child
			}
			_ = syscall.Kill(child, syscall.SIGCONT) // it may have ended
		}
	}
	return 0
}

// TestKilledAsItForks: a child that a killed daemon had just forked has its locks and its
// listening sockets for a moment. A start in that moment waits, has the same ports then,
// and serves at them.
func TestKilledAsItForks(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{nil, {"--takeover"}} {
		t.Run(strings.Join(append(args, "start"), " "), func(t *testing.T) {
			n := prepare(t, seed(t, "googleapis.yaml"), nil, append(args, "--probe-interval", "10ms")...)
			if err := n.d.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			child := 0
			eventually(t, soon, "a child that has not called execve", func() bool {
				for range 200 { // it is one for a fraction of a millisecond
					if child = stoppedChild(n.d.PID()); child != 0 {
						return true
					}
				}
				return false
			})
			_ = n.d.Kill() // the error says that it was killed
			time.AfterFunc(300*time.Millisecond, func() { _ = syscall.Kill(child, syscall.SIGCONT) })
			if err := n.d.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			n.learn(t, world.GoogleAPIs)
			if log := n.d.Log(); strings.Contains(log, "another process has a port") {
				t.Errorf("it has other ports than before:\n%s", log)
			}
		})
	}
}
