// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
)

// setuid makes a program that gives whoever runs it root's privileges, as sudo
// and su do: a copy of one that does nothing with them but say so.
func setuid(t *testing.T, dir, program string) string {
	t.Helper()
	b, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "setuid-"+filepath.Base(program))
	if err := os.WriteFile(path, b, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o755|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestExecUser: the command is the user in all that programs look at, and
// can't be somebody else.
func TestExecUser(t *testing.T) {
	t.Parallel()
	testenv.RequireTool(t, "curl")
	b := newBench(t, hosts("google", world.GoogleAPIs))
	id := setuid(t, b.Dir(), "/usr/bin/id")
	as := func(env []string, user string, flags ...string) ended {
		if user != "" {
			flags = append(flags, "--user", user)
		}
		c := b.command(t, flags, shell(id+" -u; id -u; id -g; id -G; echo $HOME $USER $LOGNAME; echo $SHELL; "+b.fetch("https://"+world.GoogleAPIs+"/"))...)
		if user == "" { // as people call it
			for i, a := range c.Args {
				if a == "--user" {
					c.Args = append(c.Args[:i:i], c.Args[i+2:]...)
					break
				}
			}
		}
		c.Env = append(c.Env, env...)
		return finish(t, c)
	}
	for _, tt := range []struct {
		name, user string
		flags, env []string
		want       string // without the shell
		stderr     string
	}{
		{name: "a name", user: "nobody", want: "65534\n65534\n65534\n65534\n/nonexistent nobody nobody\n"},
		{name: "name and group", user: "nobody:daemon", want: "65534\n65534\n1\n1 65534\n/nonexistent nobody nobody\n"},
		{name: "numbers", user: "65534:77", want: "65534\n65534\n77\n77 65534\n/nonexistent nobody nobody\n"},
		{name: "a number that nobody has", user: "4000000017", want: "4000000017\n4000000017\n65534\n65534\n/ 4000000017 4000000017\n"},
		{name: "setuid programs work where that is wanted", user: "nobody", flags: []string{"--allow-new-privileges"}, want: "0\n65534\n65534\n65534\n/nonexistent nobody nobody\n"},
		{name: "called by sudo", env: []string{"SUDO_USER=nobody"}, want: "65534\n65534\n65534\n65534\n/nonexistent nobody nobody\n"},
		{name: "called by sudo, and root", user: "root", env: []string{"SUDO_USER=nobody"}, want: "0\n0\n0\n"},
		{name: "nobody named", want: "0\n0\n0\n", stderr: "egressd: the command runs as root, which can leave the policy; --user NAME runs it as somebody who can't\n"},
		{name: "nobody named, quietly", flags: []string{"-q"}, want: "0\n0\n0\n"},
	} {
		e := as(tt.env, tt.user, tt.flags...)
		if e.code != 0 || !strings.HasPrefix(e.stdout, tt.want) || !strings.Contains(e.stdout, "\n/") || !strings.HasSuffix(e.stdout, "}") && !strings.HasSuffix(e.stdout, "}\n") || e.stderr != tt.stderr {
			t.Errorf("%s: %+v, want %q and %q", tt.name, e, tt.want, tt.stderr)
		}
	}
	if e := as([]string{"SUDO_USER=no-such-user"}, ""); e.code != 125 || !strings.Contains(e.stderr, "--user") {
		t.Errorf("called by sudo by nobody: %+v", e)
	}
}

// TestExecUserStays: a user who may become root by a setuid program does not
// get out by it. The twin may, and does.
func TestExecUserStays(t *testing.T) {
	t.Parallel()
	b := newBench(t, hosts("google", world.GoogleAPIs))
	tee := setuid(t, b.Dir(), "/usr/bin/tee")
	root, err := world.CgroupRoot()
	if err != nil {
		t.Fatal(err)
	}
	outside, err := world.NewCgroup("outside")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = outside.Close() })
	for _, to := range []string{filepath.Join(root, filepath.Base(outside.Path()))} {
		script := "echo $$ | " + tee + " " + to + "/cgroup.procs >/dev/null; " +
			probe + " dial " + hostPort(world.StrangerV4, 80) + "; " + probe + " dial " + hostPort(world.StrangerV6, 80)
		b.noWire(t, func() {
			if e := finish(t, b.command(t, []string{"--user", "nobody"}, shell(script)...)); strings.Count(e.stdout, "refused") != 2 {
				t.Errorf("%+v", e)
			}
		}, world.StrangerV4, world.StrangerV6)
		e := finish(t, b.command(t, []string{"--user", "nobody", "--allow-new-privileges"}, shell(script)...))
		if strings.Contains(e.stdout, "refused") || b.Packets(b.Stranger.V4) == 0 || b.Packets(b.Stranger.V6) == 0 {
			t.Errorf("the twin: %+v", e)
		}
	}
}
