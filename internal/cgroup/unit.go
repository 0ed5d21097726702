// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"context"
	"fmt"
	"os/exec"
	"path"
	"slices"
	"strings"
	"time"
)

// Unit is the path of a systemd unit's cgroup below the root, of the system's
// manager. A name without a suffix is a service's. ask tells the unit's
// properties, as systemctl show does, and may know none: the unit then is where
// systemd puts it by default (systemd.slice(5)), in system.slice or, an
// instance of a template, in a slice below that. SLICE/UNIT says the slice.
func Unit(name string, ask func(unit string) map[string]string) (string, error) {
	slice, unit, given := strings.Cut(name, "/")
	if !given {
		slice, unit = "", name
	}
	if !strings.ContainsRune(unit, '.') {
		unit += ".service"
	}
	for _, s := range []string{slice, unit} {
		if err := checkUnit(s); err != nil {
			return "", fmt.Errorf("%q is not a unit's name: %w", name, err)
		}
	}
	if given {
		if !strings.HasSuffix(slice, ".slice") {
			return "", fmt.Errorf("%q: what is in front of the slash is a slice, such as shop.slice", name)
		}
		return path.Join(slicePath(slice), escapeUnit(unit)), nil
	}
	is := ask(unit)
	if at := is["ControlGroup"]; at != "" {
		return strings.Trim(at, "/"), nil
	}
	if is["Id"] != "" && checkUnit(is["Id"]) == nil {
		unit = is["Id"] // the name was an alias
	}
	if strings.HasSuffix(unit, ".slice") {
		return slicePath(unit), nil
	}
	if slice = is["Slice"]; slice == "" {
		slice = defaultSlice(unit)
	}
	return path.Join(slicePath(slice), escapeUnit(unit)), nil
}

// checkUnit refuses what is in no unit's name (systemd.unit(5)).
func checkUnit(s string) error {
	for _, r := range s {
		if !strings.ContainsRune(`:-_.\@`, r) && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') {
			return fmt.Errorf("it has the character %q", r)
		}
	}
	if len(s) > 255 || strings.HasPrefix(s, ".") {
		return fmt.Errorf("it is too long, or begins with a dot")
	}
	return nil
}

// defaultSlice is the slice of a unit that names none.
func defaultSlice(unit string) string {
	prefix, _, instance := strings.Cut(unit, "@")
	if !instance {
		return "system.slice"
	}
	return "system-" + strings.ReplaceAll(prefix, "-", `\x2d`) + ".slice"
}

// slicePath is where a slice is: a-b.slice is in a.slice, and -.slice is the root.
func slicePath(slice string) string {
	name := strings.TrimSuffix(slice, ".slice")
	if name == "-" {
		return ""
	}
	var out []string
	for i, r := range name {
		if r == '-' {
			out = append(out, escapeUnit(name[:i]+".slice"))
		}
	}
	return path.Join(append(out, escapeUnit(slice))...)
}

// controllers are what a unit's name may not begin with in the file system, for
// the kernel has files of that name.
var controllers = []string{"cgroup", "cpu", "cpuacct", "cpuset", "io", "blkio", "memory", "devices", "pids"}

// escapeUnit is the name of a unit's directory (systemd's cg_escape).
func escapeUnit(unit string) string {
	first, _, _ := strings.Cut(unit, ".")
	if strings.HasPrefix(unit, "_") || slices.Contains(controllers, first) {
		return "_" + unit
	}
	return unit
}

// askTime bounds how long AskSystemd waits.
const askTime = 5 * time.Second

// AskSystemd asks the system's manager for the properties of a unit that Unit
// uses. It knows none where there is no systemd.
func AskSystemd(ctx context.Context, unit string) map[string]string {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	out, err := exec.CommandContext(ctx, "systemctl", "show", "--property=Id,Slice,ControlGroup", "--", unit).Output()
	if err != nil {
		return nil
	}
	is := map[string]string{}
	for line := range strings.Lines(string(out)) {
		if key, value, ok := strings.Cut(strings.TrimRight(line, "\n"), "="); ok {
			is[key] = value
		}
	}
	return is
}
