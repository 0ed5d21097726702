// SPDX-License-Identifier: Apache-2.0

package cgroup_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/cgroup"
)

// TestUnit: a unit's cgroup is where systemd says, or puts it by default.
func TestUnit(t *testing.T) {
	none := func(string) map[string]string { return nil }
	for name, want := range map[string]string{
		"shop.service":               "system.slice/shop.service",
		"shop":                       "system.slice/shop.service",
		"getty@tty1.service":         "system.slice/system-getty.slice/getty@tty1.service",
		"systemd-fsck@dev-x.service": `system.slice/system-systemd\x2dfsck.slice/systemd-fsck@dev-x.service`,
		"shop.slice":                 "shop.slice",
		"a-b-c.slice":                "a.slice/a-b.slice/a-b-c.slice",
		"a-b.slice/foo.service":      "a.slice/a-b.slice/foo.service",
		"machine.slice/x.scope":      "machine.slice/x.scope",
		"-.slice":                    "",
		"-.slice/x.scope":            "x.scope",
		"io.service":                 "system.slice/_io.service",
		"_x.service":                 "system.slice/__x.service",
	} {
		if got, err := cgroup.Unit(name, none); got != want || err != nil {
			t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
	}
	for _, name := range []string{"shop service", "../shop.service", "a/b/c.service", "shop.service/x", "x.service\n", strings.Repeat("x", 256), "foo/bar.service"} {
		if got, err := cgroup.Unit(name, none); err == nil {
			t.Errorf("%q is taken for %q", name, got)
		}
	}
	for _, c := range []struct {
		is   map[string]string
		want string
	}{
		{map[string]string{"Id": "ssh.service", "Slice": "system.slice", "ControlGroup": "/remote.slice/ssh.service"}, "remote.slice/ssh.service"},
		{map[string]string{"Id": "ssh.service", "Slice": "a-b.slice", "ControlGroup": ""}, "a.slice/a-b.slice/ssh.service"},
		{map[string]string{"Id": "ssh.service", "Slice": "", "ControlGroup": ""}, "system.slice/ssh.service"},
	} {
		if got, err := cgroup.Unit("sshd", func(string) map[string]string { return c.is }); got != c.want || err != nil {
			t.Errorf("%v: %q, %v; want %q", c.is, got, err, c.want)
		}
	}
}

// TestAskSystemd: what systemctl says is read; without it nothing is known.
func TestAskSystemd(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	if is := cgroup.AskSystemd(t.Context(), "shop.service"); len(is) != 0 {
		t.Errorf("without systemctl: %v", is)
	}
	fake := "#!/bin/sh\n[ \"$1 $2 $3 $4\" = 'show --property=Id,Slice,ControlGroup -- shop.service' ] || exit 1\necho Id=shop.service\necho Slice=a.slice\necho ControlGroup=/a.slice/shop.service\n"
	if err := os.WriteFile(filepath.Join(dir, "systemctl"), []byte(fake), 0o755); err != nil {
		t.Fatal(err)
	}
	is := cgroup.AskSystemd(t.Context(), "shop.service")
	if is["Id"] != "shop.service" || is["Slice"] != "a.slice" || is["ControlGroup"] != "/a.slice/shop.service" {
		t.Errorf("systemctl: %v", is)
	}
}
