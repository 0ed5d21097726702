// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/egressd/egressd/internal/cgroup"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
)

// insideScript makes the cgroup $1 the root of a cgroup namespace, mounted at
// $2 as on every machine, enters the cgroup $3 in it, and becomes the rest.
const insideScript = `set -e
root=$1 mnt=$2 unit=$3; shift 3
echo 0 >"$root/cgroup.procs"
exec unshare --cgroup sh -c 'set -e
mnt=$1 unit=$2; shift 2
umount -l "$mnt"
mount -t cgroup2 cgroup2 "$mnt"
mkdir -p "$mnt/$unit"
echo 0 >"$mnt/$unit/cgroup.procs"
exec "$@"' sh "$mnt" "$unit" "$@"`

// captureAll lets the daemon's next start capture the root of a cgroup
// namespace and be in the cgroup unit below that itself, as on a node of which
// everything is captured. more is put behind the command line.
func (n *node) captureAll(t *testing.T, unit string, more ...string) {
	t.Helper()
	testenv.RequireTool(t, "unshare")
	mnt := mount(t)
	tail := ` "$@" --cgroup ` + mnt
	for _, m := range more {
		tail += " " + m
	}
	n.d.Prefix = []string{"sh", "-c", insideScript, "sh", n.d.Root.Path(), mnt, unit, "sh", "-c", "exec" + tail, "sh"}
}

// mount is where cgroup v2 is mounted.
func mount(t *testing.T) string {
	t.Helper()
	root, err := cgroup.Root()
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// TestStartInside: a daemon that captured the whole node starts again from
// inside the capture, whatever ended it and whatever cgroup it is in then.
func TestStartInside(t *testing.T) {
	t.Parallel()
	config := seed(t, "googleapis.yaml")
	config["tcp.yaml"] = tcp("tcp", world.API, "7")
	n := prepare(t, config, nil, "--interfaces", "none", "--node-services", "none")
	const unit = "system.slice/egressd.service"
	n.captureAll(t, unit)
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.learn(t, world.GoogleAPIs, world.API)
	// As long as the test runs.
	direct := n.session(t, n.Client(t.Context(), n.in, probe, "session", n.Echo.Addr.String()))
	knocker := n.knock(t, n.in, n.Echo6.Addr.String(), hostPort(world.StrangerV4, 443), hostPort(world.StrangerV6, 443))
	dir := filepath.Join(n.d.Root.Path(), unit)
	steps := []insideStep{
		{name: "TERM", end: n.d.Terminate, unit: unit},
		{name: "kill -9", end: n.d.Kill, unit: unit},
		{name: "TERM, fresh cgroup", end: n.d.Terminate, unit: unit, remove: dir},
		{name: "kill -9, fresh cgroup", end: n.d.Kill, unit: unit, remove: dir},
		{name: "kill -9, in the captured cgroup itself", end: n.d.Kill},
		{name: "kill -9, in the captured cgroup itself, fresh", end: n.d.Kill, remove: filepath.Join(n.d.Root.Path(), "egressd")},
		{name: "kill -9, in a cgroup with others", end: n.d.Kill, unit: filepath.Base(n.in.Path())},
	}
	for i := range 14 {
		s := insideStep{name: fmt.Sprintf("kill -9, fresh cgroup, %d", i), end: n.d.Kill, unit: unit, remove: dir}
		if i%2 == 0 {
			s.name, s.end = fmt.Sprintf("TERM, fresh cgroup, %d", i), n.d.Terminate
		}
		steps = append(steps, s)
	}
	n.noWire(t, func() {
		for _, s := range steps {
			n.startInside(t, s)
			if !direct.echo(s.name) {
				t.Fatalf("%s: a direct connection was cut", s.name)
			}
			if a := n.curl(t, n.in, "http://"+world.GoogleAPIs); a.status != 200 {
				t.Errorf("%s: what is proxied: %+v", s.name, a)
			}
		}
		if rounds, good := knocker.end(t); good != 0 {
			t.Errorf("%d attempts of %d rounds went through", good, rounds)
		}
		// A cgroup that a user may fill is not exempt, although egressd was
		// alone in it.
		loose, err := n.d.Root.Child("loose")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(loose.Path(), nobody, nobody); err != nil {
			t.Fatal(err)
		}
		n.startInside(t, insideStep{name: "in a user's cgroup", end: n.d.Kill, unit: filepath.Base(loose.Path())})
		n.isOpen(t, "in a user's cgroup", loose, false)
		// What was learned stays in the other state directory.
		_ = direct.in.Close()
		n.startInside(t, insideStep{name: "another state directory", end: n.d.Kill, unit: unit, remove: dir,
			more: []string{"--state-dir", t.TempDir()}})
		if a := n.curl(t, n.in, "http://"+world.GoogleAPIs); a.status != 200 {
			t.Errorf("another state directory: what is proxied: %+v", a)
		}
		if p := n.probe(t, n.in, "dial", hostPort(world.StrangerV4, 443)); p.Errno != syscall.ECONNREFUSED {
			t.Errorf("another state directory: stranger: %+v", p)
		}
		// The earlier run captured egressd, and this one doesn't.
		part := filepath.Join(mount(t), filepath.Base(n.in.Path()))
		n.startInside(t, insideStep{name: "another captured cgroup", end: n.d.Kill, unit: unit, remove: dir,
			more: []string{"--cgroup", part}})
		if a := n.curl(t, n.in, "http://"+world.GoogleAPIs); a.status != 200 {
			t.Errorf("another captured cgroup: what is proxied: %+v", a)
		}
	}, world.StrangerV4, world.StrangerV6)
	// The twin: who is not captured gets through.
	if p := n.probe(t, nil, "dial", hostPort(world.StrangerV4, 443)); p.Error != "" {
		t.Errorf("uncaptured: %+v", p)
	}
}

// insideStep is an end and a start of a daemon that is captured itself.
type insideStep struct {
	name   string
	end    func() error
	unit   string // its cgroup
	remove string // a cgroup that is removed in between; "": none
	more   []string
}

func (n *node) startInside(t *testing.T, s insideStep) {
	t.Helper()
	_ = s.end() // says how it ended
	if s.remove != "" {
		before, err := cgroup.ID(s.remove)
		if err == nil {
			err = os.Remove(s.remove)
		}
		if err == nil {
			err = os.Mkdir(s.remove, 0o755)
		}
		after, _ := cgroup.ID(s.remove)
		if err != nil || before == after {
			t.Fatalf("%s: %v; cgroup %d and then %d", s.name, err, before, after)
		}
	}
	n.captureAll(t, s.unit, s.more...)
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatalf("%s: %v", s.name, err)
	}
	// What egressd is free of its neighbours are not.
	if p := n.probe(t, n.in, "listen", "tcp4", "127.0.0.1:15001"); p.Errno != syscall.EPERM {
		t.Errorf("%s: a workload at egressd's port: %+v, want EPERM", s.name, p)
	}
}
