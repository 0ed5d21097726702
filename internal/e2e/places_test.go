// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
)

// TestPlacesOfOthers: a directory that a user made before the start, where all
// may do so, is not taken: its owner could take the pins away, or be whom
// "egressd unload" asks.
func TestPlacesOfOthers(t *testing.T) {
	t.Parallel()
	n := prepare(t, seed(t, "googleapis.yaml"), nil)
	open := filepath.Join(n.Dir(), "open")
	for _, dir := range []string{open, filepath.Dir(n.d.PinDir())} {
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.Chmod(dir, 0o777|os.ModeSticky)); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		pins, state string // those of the daemon where they are ""
		plant       func(as func(script string)) (path string)
		want        string
	}{
		"pin root": {plant: func(as func(string)) string {
			as("mkdir " + n.d.PinDir())
			return n.d.PinDir()
		}, want: "belongs to uid 65534"},
		"pins": {plant: func(as func(string)) string {
			as("mkdir -p " + n.d.PinDir() + "/node")
			return n.d.PinDir()
		}, want: "belongs to uid 65534"},
		"pins by a link": {plant: func(as func(string)) string {
			as("mkdir " + open + "/real; ln -s " + open + "/real " + n.d.PinDir())
			return n.d.PinDir()
		}, want: "is a symbolic link"},
		"state": {state: open + "/run", plant: func(as func(string)) string {
			as("mkdir " + open + "/run")
			return open + "/run"
		}, want: "belongs to uid 65534"},
		"state by a link": {state: open + "/link", plant: func(as func(string)) string {
			as("ln -s /tmp " + open + "/link")
			return open + "/link"
		}, want: "is a symbolic link"},
		"state that all may write": {state: open + "/all", plant: func(func(string)) string {
			if err := errors.Join(os.Mkdir(open+"/all", 0o755), os.Chmod(open+"/all", 0o777)); err != nil {
				t.Fatal(err)
			}
			return open + "/all"
		}, want: "chmod go-w"},
	} {
		pins, state := n.d.PinDir(), n.d.StateDir()
		if c.state != "" {
			state = c.state
		}
		path := c.plant(func(script string) {
			cmd := n.client(t, nil, "sh")
			cmd.Path, cmd.Args = "/bin/sh", shell(script)
			cmd.SysProcAttr.Unshareflags = 0
			cmd.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
			if e := finish(t, cmd); e.code != 0 {
				t.Fatalf("%s: %+v", name, e)
			}
		})
		common := []string{"--state-dir", state, "--pin-dir", pins}
		policy := append([]string{"--config", n.d.ConfigDir(), "--dns-server", world.ResolverV4}, common...)
		commands := [][]string{
			append([]string{"run", "--cgroup", n.d.Root.Path()}, policy...),
			append(append([]string{"exec"}, policy...), "--", "true"),
			append([]string{"unload"}, common...),
		}
		if c.state != "" {
			commands = append(commands, []string{"status", "--state-dir", state}, []string{"flows", "--state-dir", state})
		}
		for _, args := range commands {
			e := n.run(t, nil, egressd, args...)
			code := 1
			switch args[0] {
			case "exec":
				code = 125
			case "run":
				code = 3
			}
			if e.code != code || !strings.Contains(e.stderr, path+" ") || !strings.Contains(e.stderr, c.want) || !strings.Contains(e.stderr, "start again") && !strings.Contains(e.stderr, "name the directory itself") {
				t.Errorf("%s: %s: %+v", name, args[0], e)
			}
		}
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
		_ = os.Remove(open + "/real")
	}
	testenv.NoPins(t, n.d.PinDir())
	// The twin: in the same file system, with nobody there before.
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{n.d.PinDir(), filepath.Join(n.d.PinDir(), "node")} {
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", dir, info, err)
		}
	}
}
