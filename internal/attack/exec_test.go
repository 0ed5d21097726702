// SPDX-License-Identifier: Apache-2.0

package attack

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"

	"github.com/egressd/egressd/internal/world"
)

// nobody is a user without privileges.
const nobody = 65534

// execRows are ways out of the cgroup of an exec that was started where a
// user owns the cgroups, as in the terminal of a desktop.
var execRows = []row{
	{attack: "another cgroup", how: "uid 65534 moves from exec's to its own, IPv4", want: "EACCES", by: "exec's cgroup is where only root moves processes", do: fromExec("{A4}")},
	{attack: "another cgroup", how: "the same, IPv6", want: "EACCES", by: "exec's cgroup is where only root moves processes", do: fromExec("{A6}")},
	{attack: "another cgroup", how: "a setuid program moves exec's command, IPv4", want: "ECONNREFUSED", by: "no_new_privs with exec --user", do: bySetuid("{A4}")},
	{attack: "another cgroup", how: "a setuid program moves it, IPv6", want: "ECONNREFUSED", by: "no_new_privs with exec --user", do: bySetuid("{A6}")},
}

// fromExec runs a command under egressd exec, which moves itself out. The twin
// is in a cgroup that was made where the user owns those around it.
func fromExec(stranger string) func(*arena, *world.Cgroup) string {
	return func(a *arena, cg *world.Cgroup) string {
		session, err := world.NewCgroup("session")
		a.must(err)
		defer func() { a.must(session.Close()) }()
		terminal, err := session.Child("terminal.scope")
		a.must(err)
		for _, dir := range []string{session.Path(), terminal.Path()} {
			for _, file := range []string{".", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"} {
				a.must(os.Chown(filepath.Join(dir, file), nobody, nobody))
			}
		}
		ctx, cancel := context.WithTimeout(a.t.Context(), clientTimeout)
		defer cancel()
		c := a.commandIn(ctx, a.Node, terminal, cg == nil, "ways", "left", "65534", session.Path(), stranger, "80")
		return a.underExec(c, cg, "root")
	}
}

// bySetuid runs a command under egressd exec --user, which lets a setuid
// program move it out: sudo, in effect. The twin does so where it may.
func bySetuid(stranger string) func(*arena, *world.Cgroup) string {
	return func(a *arena, cg *world.Cgroup) string {
		outside, err := world.NewCgroup("outside")
		a.must(err)
		defer func() { a.must(outside.Close()) }()
		program, err := os.ReadFile("/usr/bin/tee")
		a.must(err)
		tee := filepath.Join(a.Dir(), "tee")
		_ = os.Remove(tee) // of the row before
		a.must(os.WriteFile(tee, program, 0o755))
		a.must(os.Chmod(tee, 0o755|os.ModeSetuid))
		ctx, cancel := context.WithTimeout(a.t.Context(), clientTimeout)
		defer cancel()
		c := a.commandIn(ctx, a.Node, outside, cg == nil, "ways", "by_setuid", "65534", tee, outside.Path(), stranger, "80")
		return a.underExec(c, cg, "nobody")
	}
}

// underExec runs a command under egressd exec, or as it is when cg is nil.
func (a *arena) underExec(c *world.Cmd, cg *world.Cgroup, user string) string {
	if cg != nil {
		attack := c.Args
		c.Path = egressd
		c.Args = append([]string{egressd, "exec", "--quiet", "--user", user, "--config", a.d.ConfigDir(), "--state-dir", a.d.StateDir(),
			"--pin-dir", a.d.PinDir(), "--dns-server", world.ResolverV4, "--"}, attack...)
	}
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	_ = c.Run() // what it says counts
	return strings.TrimSpace(out.String())
}
