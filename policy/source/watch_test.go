// SPDX-License-Identifier: Apache-2.0

package source

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestPending: a file that was moved to its place is looked at at once, one
// that is written there not before it is left alone, nor while its writer has
// it open, but at some time in any case.
func TestPending(t *testing.T) {
	temp, moved := notice{name: "/c/.a.yaml.tmp"}, notice{name: "/c/a.yaml", moved: true}
	written, closed := notice{name: "/c/a.yaml", written: true}, notice{name: "/c/a.yaml", closed: true}
	other, self := notice{name: "/c/b.yaml", moved: true}, notice{dir: "/c"}
	old := notice{name: "/c/..v1/a.yaml", dir: "/c/..v1", gone: true}
	for _, tt := range []struct {
		events []notice
		gap    time.Duration
		want   time.Duration // after the first
	}{
		{[]notice{moved}, 1, replaced},
		{[]notice{temp, temp, moved}, 1, 2 + replaced},
		{[]notice{moved, temp}, 1, replaced},
		{[]notice{temp}, 1, debounce},
		{[]notice{temp, temp}, 1, debounce},
		{[]notice{moved, moved}, 1, 1 + replaced},
		{[]notice{moved, moved}, patience, patience},
		{[]notice{moved, old, {dir: "/c/..v1"}}, 1, replaced},
		{[]notice{self}, 1, settleTime},
		{[]notice{{name: "/c/rules", gone: true}}, 1, settleTime},
		{[]notice{written, closed}, 1, 1 + settleTime},
		{[]notice{written, closed, moved}, 1, 2 + settleTime},
		{[]notice{written}, 1, churnMost},
		{[]notice{written, other}, 1, churnMost},
		{[]notice{written, moved}, 1, 1 + settleTime},
		{[]notice{written, closed, written}, 1, churnMost},
		{[]notice{written, closed, written, closed, written, closed}, churnTime / 5, churnTime},
		{[]notice{written, closed, written, closed}, churnTime / 5, churnTime/5*3 + settleTime},
		{[]notice{written, closed, written}, churnTime, churnMost},
	} {
		w := &Watcher{real: map[string]bool{"/c/rules": true, "/c/..v1/a.yaml": true}, direct: map[string]bool{"/c": true}}
		var p pending
		begin := time.Unix(1, 0)
		for i, e := range tt.events {
			p.add(w.weigh(e), begin.Add(time.Duration(i)*tt.gap))
		}
		if got := p.due(w.writers.any()).Sub(begin); got != tt.want {
			t.Errorf("%+v, %v apart: look after %v, want %v", tt.events, tt.gap, got, tt.want)
		}
	}
}

// TestWatchSpeed: a file that is moved to its place, from the same directory
// or another one, is noticed before a file that is written in place could be.
func TestWatchSpeed(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "conf")
	must(t, os.Mkdir(dir, 0o755))
	a := filepath.Join(dir, "a.yaml")
	write(t, a, "0")
	calls := startWatch(t, dir)
	for _, temp := range []string{filepath.Join(dir, ".a.yaml.new"), filepath.Join(filepath.Dir(dir), "staged")} {
		best := time.Hour
		for i := range 10 {
			write(t, temp, fmt.Sprint("moved ", i))
			start := time.Now()
			must(t, os.Rename(temp, a))
			expectCall(t, calls, "a rename")
			best = min(best, time.Since(start))
		}
		if best >= settleTime/10 {
			t.Errorf("%s: the fastest of 10 renames was noticed after %v", temp, best)
		}
	}
	for i := range 3 {
		start := time.Now()
		write(t, a, fmt.Sprint("in place ", i))
		expectCall(t, calls, "a write")
		if took := time.Since(start); took < settleTime {
			t.Errorf("a file was looked at %v after it was written in place", took)
		}
	}
}

// TestNotifierReplaced: the watch of a directory that was replaced is on the
// new one, and a directory with two names is watched until both are gone.
func TestNotifierReplaced(t *testing.T) {
	root := t.TempDir()
	dir, link := filepath.Join(root, "d"), filepath.Join(root, "l")
	must(t, os.Mkdir(dir, 0o755))
	must(t, os.Symlink("d", link))
	n, err := newNotifier()
	must(t, err)
	defer func() {
		must(t, n.close())
		for range n.events { // until it is closed
		}
	}()
	await := func(name string) {
		t.Helper()
		for {
			select {
			case e, ok := <-n.events:
				if !ok {
					t.Fatal("no more events")
				}
				if filepath.Base(e.name) == name {
					return
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("no event for %s", name)
			}
		}
	}
	watch := func(dirs ...string) {
		t.Helper()
		set := map[string]bool{}
		for _, d := range dirs {
			set[d] = true
		}
		if failed := n.watch(set); len(failed) > 0 {
			t.Fatal(failed)
		}
	}
	watch(dir, link)
	watch(link)
	write(t, filepath.Join(dir, "one"), "")
	await("one")
	must(t, os.Rename(dir, dir+".old"))
	must(t, os.Mkdir(dir, 0o755))
	watch(link)
	write(t, filepath.Join(dir, "two"), "")
	await("two")
	if failed := n.watch(map[string]bool{filepath.Join(root, "gone"): true}); len(failed) != 1 {
		t.Errorf("a missing directory: %v", failed)
	}
}

// BenchmarkScan looks at 110 files.
func BenchmarkScan(b *testing.B) {
	dir := b.TempDir()
	for i := range 110 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.yaml", i)), nil, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	w := NewWatcher([]string{dir}, slog.New(slog.DiscardHandler))
	defer w.close()
	for b.Loop() {
		w.scan()
	}
}
