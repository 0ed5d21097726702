// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestUnits: units are in slices, wherever these are; what is in another unit, or in a
// slice of somebody else, is none.
func TestUnits(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: only root's slices are systemd's")
	}
	root := t.TempDir()
	for _, dir := range []string{
		"system.slice/shop.service/worker.service", "system.slice/system-shop.slice/shop@1.service", `system.slice/dev-disk\x2d1.mount`,
		"system.slice/_cpu.service", "shop.slice/shop-front.slice/web.service", "init.scope", "docker/a.service", "system.slice/shop.timer",
		"user.slice/user-1000.slice/user@1000.service/app.slice/shop.service", "open.slice/shop.service",
	} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(filepath.Join(root, "open.slice"), 1000, 1000); err != nil {
		t.Fatal(err)
	}
	units, watch := Units(root)
	want := map[string]string{
		"system.slice": "system.slice", "system.slice/shop.service": "shop.service",
		"system.slice/system-shop.slice": "system-shop.slice", "system.slice/system-shop.slice/shop@1.service": "shop@1.service",
		`system.slice/dev-disk\x2d1.mount`: `dev-disk\x2d1.mount`, "system.slice/_cpu.service": "cpu.service",
		"shop.slice": "shop.slice", "shop.slice/shop-front.slice": "shop-front.slice", "shop.slice/shop-front.slice/web.service": "web.service",
		"init.scope": "init.scope", "user.slice": "user.slice", "user.slice/user-1000.slice": "user-1000.slice",
		"user.slice/user-1000.slice/user@1000.service": "user@1000.service", "open.slice": "open.slice",
	}
	if !maps.Equal(units, want) {
		t.Errorf("units %q,\nwant  %q", units, want)
	}
	if !slices.Contains(watch, root) || !slices.Contains(watch, filepath.Join(root, "shop.slice/shop-front.slice")) || slices.Contains(watch, filepath.Join(root, "open.slice")) {
		t.Errorf("watched: %q", watch)
	}
}

// TestLiteral: a path names itself and nothing else, whatever is in it.
func TestLiteral(t *testing.T) {
	root := t.TempDir()
	for _, path := range []string{"a/b", `system.slice/dev-disk\x2d1.mount`, "a*/b", "a[b]/c?", `a*\x2d/b\x2d`} {
		for _, dir := range []string{path, "ax/b", "ab/cd"} {
			if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		found, _, err := Literal(path).Find(root)
		if err != nil || !slices.Equal(found, []string{filepath.Join(root, path)}) {
			t.Errorf("%q: %q, %v", path, found, err)
		}
		if !Literal(path).Names(path) || path != "ax/b" && Literal(path).Names("ax/b") {
			t.Errorf("%q as a name", path)
		}
	}
}
