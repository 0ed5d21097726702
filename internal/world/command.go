// SPDX-License-Identifier: Apache-2.0

package world

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"
)

// bindScript mounts files over others and then becomes the command. $1 says
// how many pairs follow; a target that does not exist is left out.
const bindScript = `n=$1; shift
while [ "$n" -gt 0 ]; do
  if [ -e "$2" ]; then mount --bind "$1" "$2" || exit 125; fi
  shift 2; n=$((n-1))
done
exec "$@"`

// Cmd is an exec.Cmd whose process starts inside a network namespace and, from
// its first instruction, inside a cgroup.
type Cmd struct {
	*exec.Cmd
	ns *Netns
}

// Command prepares a process in the namespace. cg may be nil: the process then
// stays in the caller's cgroup. When ctx ends, the process is killed.
func (n *Netns) Command(ctx context.Context, cg *Cgroup, name string, args ...string) *Cmd {
	c := exec.CommandContext(ctx, name, args...)
	c.WaitDelay = 5 * time.Second // a grandchild may hold the output open
	c.SysProcAttr = &syscall.SysProcAttr{}
	if cg != nil {
		c.SysProcAttr.UseCgroupFD = true
		c.SysProcAttr.CgroupFD = cg.FD()
	}
	return &Cmd{Cmd: c, ns: n}
}

// Bind gives the process a mount namespace of its own in which each target is
// covered by the file in front of it: source, target, source, target... A
// target that does not exist is left out. sh and mount must be installed.
func (c *Cmd) Bind(pairs ...string) *Cmd {
	sh, err := exec.LookPath("sh")
	if err != nil {
		c.Err = err
		return c
	}
	path := c.Path
	args := append([]string{"sh", "-c", bindScript, "sh", strconv.Itoa(len(pairs) / 2)}, pairs...)
	args = append(args, path)
	c.Args = append(args, c.Args[1:]...)
	c.Path = sh
	// os/exec makes the mounts of the new namespace private before the script runs.
	c.SysProcAttr.Unshareflags |= syscall.CLONE_NEWNS
	return c
}

// Start is exec.Cmd.Start on a thread inside the namespace.
func (c *Cmd) Start() error { return c.ns.Do(c.Cmd.Start) }

// Run starts the process and waits for it.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output runs the process and returns what it wrote on its standard output.
// The error is an *exec.ExitError with Stderr filled if it exited with a code.
func (c *Cmd) Output() ([]byte, error) {
	var stdout, stderr bytes.Buffer
	c.Stdout = &stdout
	if c.Stderr == nil {
		c.Stderr = &stderr
	}
	err := c.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		exit.Stderr = stderr.Bytes()
	}
	return stdout.Bytes(), err
}

// CombinedOutput runs the process and returns all that it wrote.
func (c *Cmd) CombinedOutput() ([]byte, error) {
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	err := c.Run()
	return out.Bytes(), err
}

// Client prepares a process on the node that sees the little internet's
// resolvers in /etc/resolv.conf and none of the machine's own name services.
func (w *World) Client(ctx context.Context, cg *Cgroup, name string, args ...string) *Cmd {
	return w.Node.Command(ctx, cg, name, args...).Bind(
		w.file("resolv.conf"), "/etc/resolv.conf",
		w.file("hosts"), "/etc/hosts",
		w.file("nsswitch.conf"), "/etc/nsswitch.conf",
		// A caching daemon would answer from outside the namespace.
		os.DevNull, "/run/nscd/socket",
	)
}

// writeClientFiles writes the files that Client puts over those in /etc.
func (w *World) writeClientFiles() error {
	return errors.Join(
		os.WriteFile(w.file("resolv.conf"), []byte("nameserver "+ResolverV4+"\nnameserver "+ResolverV6+"\noptions timeout:2 attempts:1\n"), 0o644),
		os.WriteFile(w.file("hosts"), []byte("127.0.0.1 localhost\n::1 localhost\n"), 0o644),
		os.WriteFile(w.file("nsswitch.conf"), []byte("passwd: files\ngroup: files\nhosts: files dns\n"), 0o644),
	)
}
