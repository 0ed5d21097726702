// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// reads runs a Watcher until the test ends, and returns what the file at name
// holds at each report.
func reads(t *testing.T, name string, without bool) <-chan string {
	t.Helper()
	w := NewWatcher([]string{filepath.Dir(name)}, slog.New(slog.DiscardHandler))
	if without {
		w.close()
		w.notify, w.reported = nil, false
	}
	ctx, cancel := context.WithCancel(t.Context())
	out, done := make(chan string, 1000), make(chan struct{})
	go func() {
		defer close(done)
		w.Run(ctx, func() {
			data, _ := os.ReadFile(name) // "" when it is not there
			out <- string(data)
		})
	}()
	t.Cleanup(func() { cancel(); <-done })
	return out
}

func next(t *testing.T, reports <-chan string, within time.Duration) string {
	t.Helper()
	select {
	case s := <-reports:
		return s
	case <-time.After(within):
		t.Fatalf("no report within %v", within)
		return ""
	}
}

// TestSlowWriter: a file that is written in two halves with a pause between them
// is reported as a whole, whether its writer keeps it open, opens it again, or
// nothing but scans sees it.
func TestSlowWriter(t *testing.T) {
	for what, tt := range map[string]struct {
		pause            time.Duration
		reopens, without bool
	}{
		"open all the time":      {pause: 2 * settleTime},
		"opened again":           {pause: settleTime / 2, reopens: true},
		"seen by scans":          {pause: settleTime / 2, without: true},
		"opened again, by scans": {pause: settleTime / 2, reopens: true, without: true},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			name := filepath.Join(t.TempDir(), "a.yaml")
			write(t, name, "before")
			reports := reads(t, name, tt.without)
			f, err := os.Create(name)
			must(t, err)
			_, err = io.WriteString(f, "first ")
			must(t, err)
			if tt.reopens {
				must(t, f.Close())
			}
			time.Sleep(tt.pause) // the writer's pause, which is what is tested
			if tt.reopens {
				f, err = os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0)
				must(t, err)
			}
			_, err = io.WriteString(f, "second")
			must(t, errors.Join(err, f.Close()))
			if got := next(t, reports, 2*churnMost); got != "first second" {
				t.Errorf("reported when the file was %q", got)
			}
		})
	}
}

// TestStormInPlace: files that are written in place all the time are reported now
// and then, and not while one is written.
func TestStormInPlace(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "a.yaml")
	reports := reads(t, name, false)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-tick.C:
				if err := os.WriteFile(name, fmt.Appendf(nil, "%d\nend", i), 0o644); err != nil {
					t.Error(err)
				}
			}
		}
	}()
	start := time.Now()
	first := next(t, reports, 3*churnMost)
	if took := time.Since(start); took < churnTime-settleTime {
		t.Errorf("a storm was reported after %v", took)
	}
	if first == "" {
		t.Error("reported while the file was written")
	}
	before := next(t, reports, 3*churnMost) // it goes on
	close(stop)
	<-done
	last, err := os.ReadFile(name)
	must(t, err)
	for got := before; got != string(last); {
		got = next(t, reports, 3*churnMost)
	}
}

// TestStormByRename: each report has a whole file, and they keep coming.
func TestStormByRename(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "a.yaml")
	reports := reads(t, name, false)
	var got []string
	for i := range 100 {
		write(t, name+".new", fmt.Sprintf("%d\nend", i))
		must(t, os.Rename(name+".new", name))
		if i%10 == 9 {
			got = append(got, next(t, reports, settleTime))
		}
	}
	for got[len(got)-1] != "99\nend" {
		got = append(got, next(t, reports, settleTime))
	}
	if slices.Contains(got, "") {
		t.Errorf("%q", got)
	}
}

// TestWaitWritten: it returns when the writer closes, and at once without one.
func TestWaitWritten(t *testing.T) {
	dir := t.TempDir()
	w := NewWatcher([]string{dir}, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); w.Run(ctx, func() {}) }()
	defer func() { cancel(); <-done }()
	w.WaitWritten(t.Context())
	f, err := os.Create(filepath.Join(dir, "a.yaml"))
	must(t, err)
	_, err = io.WriteString(f, "half")
	must(t, err)
	for deadline := time.Now().Add(10 * time.Second); !w.writers.any(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the writer is not seen")
		}
	}
	waited := make(chan struct{})
	go func() { defer close(waited); w.WaitWritten(t.Context()) }()
	select {
	case <-waited:
		t.Error("it did not wait for the writer")
	case <-time.After(50 * time.Millisecond):
	}
	must(t, f.Close())
	select {
	case <-waited:
	case <-time.After(churnMost / 2):
		t.Error("it waits although the writer has closed the file")
	}
}

// TestInterval: where inotify tells everything the scan is seldom; links, or no
// inotify, make it frequent, as far as it is cheap.
func TestInterval(t *testing.T) {
	dir := t.TempDir()
	if !isLocal(dir) {
		t.Log("the temporary directory is on no local file system")
	}
	write(t, filepath.Join(dir, "a.yaml"), "1")
	w := NewWatcher([]string{dir}, slog.New(slog.DiscardHandler))
	defer w.close()
	if isLocal(dir) != w.reported || w.reported && w.interval() != scanSeldom {
		t.Errorf("told %t, the next scan in %v", w.reported, w.interval())
	}
	must(t, os.Symlink("a.yaml", filepath.Join(dir, "b.yaml")))
	w.scan()
	if w.cost = 0; w.reported || w.interval() != scanEvery {
		t.Errorf("with a link: told %t, the next scan in %v", w.reported, w.interval())
	}
	for cost, want := range map[time.Duration]time.Duration{
		time.Millisecond: scanEvery, 100 * time.Millisecond: 10 * time.Second, time.Second: scanSeldom,
	} {
		if w.cost = cost; w.interval() != want {
			t.Errorf("a scan takes %v: the next one in %v, want %v", cost, w.interval(), want)
		}
	}
	for dir, want := range map[string]bool{"/proc": false, "/sys": false} {
		if isLocal(dir) != want {
			t.Errorf("%s: %t", dir, isLocal(dir))
		}
	}
}
