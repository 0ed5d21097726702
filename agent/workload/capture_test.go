// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"bytes"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/cgroup"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/loader/kernel"
)

// TestNewCapture: programs go to the outermost cgroup around what is captured by
// name, and to the captured one itself where there is none but the root.
func TestNewCapture(t *testing.T) {
	testenv.RequireCgroup2(t)
	testenv.RequireBPF(t)
	if err := kernel.CanFollow(); err != nil {
		t.Fatal(err)
	}
	root, err := cgroup.Root()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		dirs, at, named string
		exec            bool
	}{
		{"x.slice", "x.slice", "x.slice", false},
		{"x.slice/a.service", "x.slice", "x.slice/a.service", false},
		{"x.slice/a.service", "x.slice/a.service", "x.slice/a.service", true},
		{"x.slice/y.slice/a.service", "x.slice", "x.slice/y.slice/a.service", false},
		{"x.slice/b x.slice/a/../a x.slice/a", "x.slice", "x.slice/a x.slice/b", false},
		{"x.slice/a/in x.slice/a-b x.slice/a", "x.slice", "x.slice/a x.slice/a-b", false},
		{"x.slice x.slice/a", "x.slice", "x.slice", false},
		{"x.slice .", ".", ".", false},
		{"x.slice/a y.slice/b", "", "", false},
		{"x.slice y.slice", "", "", false},
	} {
		o := CaptureOptions{Follow: !c.exec}
		for _, dir := range strings.Fields(c.dirs) {
			o.Cgroups = append(o.Cgroups, root+"/"+dir)
		}
		got, err := NewCapture(o, kernel.CanFollow)
		if c.at == "" {
			if err == nil || !strings.Contains(err.Error(), "captured together") {
				t.Errorf("%s: %+v, %v", c.dirs, got, err)
			}
			continue
		}
		var named []string
		for _, dir := range strings.Fields(c.named) {
			named = append(named, filepath.Join(root, dir))
		}
		if err != nil {
			t.Errorf("%s: %v", c.dirs, err)
		} else if !slices.Equal(got.where.named, named) || got.where.at != filepath.Join(root, c.at) || got.where.byName != (c.at != c.named && !c.exec) {
			t.Errorf("%s: %v at %s, by name: %t", c.dirs, got.where.named, got.where.at, got.where.byName)
		}
	}
	if _, err := NewCapture(CaptureOptions{Follow: true, Cgroups: []string{t.TempDir() + "/none"}}, kernel.CanFollow); err == nil || !strings.Contains(err.Error(), "cgroup v2") {
		t.Errorf("a directory that is no cgroup: %v", err)
	}
}

// TestCaptureWithoutNames: where the kernel does not tell names, one cgroup is captured
// as it is, which is said, and several are not.
func TestCaptureWithoutNames(t *testing.T) {
	testenv.RequireCgroup2(t)
	root, err := cgroup.Root()
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	o := CaptureOptions{Follow: true, Cgroups: []string{root + "/x.slice/a.service"}, Log: slog.New(slog.NewTextHandler(&log, nil))}
	no := func() error { return errors.New("locked down") }
	c, err := NewCapture(o, no)
	if err != nil || c.where.byName || c.where.at != o.Cgroups[0] || !strings.Contains(log.String(), "locked down") {
		t.Errorf("%+v, %v: %s", c, err, log.String())
	}
	o.Cgroups = append(o.Cgroups, root+"/x.slice/b.service")
	if _, err := NewCapture(o, no); err == nil || !strings.Contains(err.Error(), "locked down") {
		t.Errorf("several: %v", err)
	}
}
