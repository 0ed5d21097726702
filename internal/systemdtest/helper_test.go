// SPDX-License-Identifier: Apache-2.0

//go:build node

package systemdtest

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
)

func TestMain(m *testing.M) {
	code := testenv.Main(m)
	if err := os.RemoveAll(built.dir); built.dir != "" && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// soon is how long what comes by itself may take on a busy machine.
const soon = time.Minute

// doors are addresses that no policy names.
var doors = []string{world.StrangerV4 + ":80", "[" + world.StrangerV6 + "]:80"}

// machine prepares a machine, which ends with the test.
func machine(t *testing.T) *Machine {
	t.Helper()
	testenv.RequireCgroup2(t)
	m, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(m.Log())
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// must fails the test if there is an error.
func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// escaped counts the packets to the stranger.
func (m *Machine) escaped() int {
	return m.World.Packets(netip.MustParseAddr(world.StrangerV4)) + m.World.Packets(netip.MustParseAddr(world.StrangerV6))
}

// systemctl calls systemctl; the test fails when that does.
func (m *Machine) systemctl(t *testing.T, args ...string) {
	t.Helper()
	if _, err := m.Systemctl(args...); err != nil {
		t.Fatalf("%v\n%s", err, m.Log())
	}
}

// grows waits until a count has grown.
func (m *Machine) grows(t *testing.T, count func() int) {
	t.Helper()
	before := count()
	must(t, m.await(soon, func() error {
		if now := count(); now <= before {
			return fmt.Errorf("the count is still %d", now)
		}
		return nil
	}))
}

// client is a process of the tool.
type client struct {
	cmd *exec.Cmd
	out *bytes.Buffer
}

// start starts the tool in a cgroup of the machine.
func (m *Machine) start(t *testing.T, path string, args ...string) *client {
	t.Helper()
	c := &client{out: &bytes.Buffer{}}
	cmd := m.tool(t.Context(), path, args...)
	cmd.Stdout, cmd.Stderr = c.out, c.out
	must(t, os.MkdirAll(m.Cgroup(path), 0o755), cmd.Start())
	c.cmd = cmd.Cmd
	return c
}

// end ends it, and is what it printed.
func (c *client) end(t *testing.T) string {
	t.Helper()
	must(t, c.cmd.Process.Signal(syscall.SIGTERM))
	_ = c.cmd.Wait() // what it prints is what matters
	return c.out.String()
}

// get is nil if a process of the machine gets an answer of 200.
func (m *Machine) get(t *testing.T, url string) error {
	t.Helper()
	path := "user.slice/get"
	must(t, os.MkdirAll(m.Cgroup(path), 0o755))
	out, err := m.tool(t.Context(), path, "get", "-close", url).CombinedOutput()
	if err == nil && !strings.HasPrefix(string(out), "200 OK\n") {
		err = fmt.Errorf("%s says %q", url, out)
	}
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// inFile is nil if a file that a unit wrote has a text.
func (m *Machine) inFile(name, text string) error {
	has, err := os.ReadFile(filepath.Join(m.Dir, name))
	if err == nil && !strings.Contains(string(has), text) {
		err = fmt.Errorf("%s has no %q: %s", name, text, has)
	}
	return err
}
