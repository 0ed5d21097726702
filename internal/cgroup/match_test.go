// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

func mkdirs(t *testing.T, root string, dirs ...string) {
	t.Helper()
	for _, d := range dirs {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAssign(t *testing.T) {
	root := t.TempDir()
	mkdirs(t, root, "system.slice/web.service/sub", "system.slice/db.service", "system.slice/ssh.socket",
		"user.slice/user-1.slice/app.scope", "user.slice/user-2.slice")
	if err := os.WriteFile(filepath.Join(root, "system.slice/cgroup.service"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	patterns := []PathPattern{"system.slice/*.service", "system.slice/db.service", "user.slice/**", "user.slice/*/app.scope", "gone.slice/x", "/system.slice/"}
	dirs, watch, err := Assign(root, patterns, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]int{
		"system.slice/web.service": {0}, "system.slice/db.service": {1, 0}, "user.slice": {2},
		"user.slice/user-1.slice/app.scope": {3}, "system.slice": {5},
	}
	got := map[string][]int{}
	for dir, i := range dirs {
		rel, _ := filepath.Rel(root, dir)
		got[rel] = i
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for i, w := range watch {
		watch[i], _ = filepath.Rel(root, w)
	}
	if want := []string{".", "system.slice", "user.slice", "user.slice/user-1.slice", "user.slice/user-2.slice"}; !slices.Equal(watch, want) {
		t.Errorf("watch %v, want %v", watch, want)
	}
}

func TestPatternOrder(t *testing.T) {
	sorted := []PathPattern{"a/b/c", "a/b/*", "a/b", "a/bb*", "a/*", "b", "a", "**"}
	for i, p := range sorted[:len(sorted)-1] {
		if p.Compare(sorted[i+1]) >= 0 && p != "b" {
			t.Errorf("%q is not before %q", p, sorted[i+1])
		}
	}
}

// TestWatch: a cgroup that comes, and one below it, are told of.
func TestWatch(t *testing.T) {
	root := t.TempDir()
	mkdirs(t, root, "slice")
	w := NewWatcher(slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	patterns := []PathPattern{"slice/*/app"}
	found := make(chan string, 16)
	look := func() {
		for range 2 { // what is watched is looked at once more
			dirs, watch, err := Assign(root, patterns, nil)
			if err != nil {
				t.Error(err)
			}
			w.Follow(watch)
			for dir := range dirs {
				found <- dir
			}
		}
	}
	look()
	done := make(chan struct{})
	go func() { w.Run(ctx, look); close(done) }()
	mkdirs(t, root, "slice/one/app")
	if got := <-found; got != filepath.Join(root, "slice/one/app") {
		t.Errorf("found %s", got)
	}
	cancel()
	for open := true; open; {
		select {
		case <-found:
		case <-done:
			open = false
		}
	}
}

// TestNames: a pattern names a path as it finds it.
func TestNames(t *testing.T) {
	for _, c := range []struct {
		pattern PathPattern
		path    string
		want    bool
	}{
		{"a.slice/x.service", "a.slice/x.service", true},
		{"*.slice/x@?.service", "a.slice/x@1.service", true},
		{"a.slice/**", "a.slice", true},
		{"a.slice", "a.slice/x.service", false},
		{"a.slice/*", "a.slice", false},
		{"a.slice/*", "a.slice/x/y", false},
	} {
		if got := c.pattern.Names(c.path); got != c.want {
			t.Errorf("%s names %s: %t", c.pattern, c.path, got)
		}
	}
}

// TestWatchRests: where cgroups come and go all the time a Watcher does not look
// all the time, and misses nothing.
func TestWatchRests(t *testing.T) {
	root := t.TempDir()
	w := NewWatcher(slog.New(slog.DiscardHandler))
	w.Follow([]string{root})
	ctx, cancel := context.WithCancel(t.Context())
	const takes = 20 * time.Millisecond
	var looks atomic.Int32
	var busy atomic.Int64
	seen := make(chan string, 1<<10)
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.Run(ctx, func() {
			began := time.Now()
			entries, err := os.ReadDir(root)
			if err != nil {
				t.Error(err)
			}
			time.Sleep(takes) // a look that costs
			looks.Add(1)
			busy.Add(int64(time.Since(began)))
			seen <- entries[len(entries)-1].Name()
		})
	}()
	began := time.Now()
	last := ""
	next := time.NewTicker(time.Millisecond)
	defer next.Stop()
	for i := 0; time.Since(began) < time.Second; i++ {
		last = fmt.Sprintf("%06d", i)
		mkdirs(t, root, last)
		<-next.C
	}
	took, looked, worked := time.Since(began), looks.Load(), time.Duration(busy.Load())
	if worked > took/3 || looked < 2 {
		t.Errorf("%d looks took %v of %v", looked, worked, took)
	}
	for got := range seen {
		if got == last {
			break
		}
	}
	cancel()
	<-done
}
