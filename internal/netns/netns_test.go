// SPDX-License-Identifier: Apache-2.0

package netns_test

import (
	"errors"
	"os"
	"testing"

	"github.com/egressd/egressd/internal/netns"
	"github.com/egressd/egressd/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// TestInAndEach: a namespace is found by its cookie at any of its processes,
// and the caller's thread comes back.
func TestInAndEach(t *testing.T) {
	w := testenv.World(t)
	c := w.Node.Command(t.Context(), nil, "cat")
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		in.Close()
		if err := c.Wait(); err != nil {
			t.Error(err)
		}
	}()
	cookie := func() (n uint64) {
		n, err := netns.Cookie()
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	var node uint64
	if err := w.Node.Do(func() error { node = cookie(); return nil }); err != nil {
		t.Fatal(err)
	}
	own := cookie()
	if own == node {
		t.Fatal("one cookie for two namespaces")
	}
	pids := []int{1 << 30, os.Getpid(), c.Process.Pid, c.Process.Pid}
	visits := 0
	err = netns.In(node, pids, func() error {
		visits++
		if got := cookie(); got != node {
			t.Errorf("In: the cookie is %d, want %d", got, node)
		}
		return nil
	})
	if err != nil || visits != 1 {
		t.Errorf("In: %v, %d visits", err, visits)
	}
	failed := errors.New("failed")
	if err := netns.In(node, pids, func() error { return failed }); !errors.Is(err, failed) {
		t.Errorf("In hides an error: %v", err)
	}
	if err := netns.In(node, pids[:2], func() error { return nil }); !errors.Is(err, netns.ErrGone) {
		t.Errorf("In without a process in it: %v", err)
	}
	var seen []uint64
	err = netns.Each(pids, func(c uint64) error { seen = append(seen, c); return nil })
	if err != nil || len(seen) != 1 || seen[0] != node {
		t.Errorf("Each: %v, %v; want %d alone", seen, err, node)
	}
	if cookie() != own {
		t.Error("the thread did not come back")
	}
}
