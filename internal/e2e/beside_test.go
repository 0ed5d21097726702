// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
)

// beside stands in for nscd and systemd-resolved in a /run of its own, runs
// the command that follows and says who was asked.
const beside = `
import os, socket, subprocess, sys, threading
subprocess.check_call(["mount", "-t", "tmpfs", "tmpfs", "/run"])
asked = []
def serve(path):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    s = socket.socket(socket.AF_UNIX)
    s.bind(path)
    os.chmod(path, 0o666)
    s.listen()
    def accept():
        while True:
            s.accept()[0].close()
            asked.append(path)
    threading.Thread(target=accept, daemon=True).start()
for path in sys.argv[1].split():
    serve(path)
code = subprocess.call(sys.argv[2:])
print("asked:", *sorted(set(asked)))
sys.exit(code)`

// knockAll connects to each socket.
const knockAll = `
import os, socket, sys
for path in sys.argv[1].split():
    try:
        socket.socket(socket.AF_UNIX).connect(path)
        print(path, "open")
    except OSError as e:
        print(path, os.strerror(e.errno))`

// TestExecHidesResolvers: a command under exec has names resolved by DNS,
// although the node has other ways.
func TestExecHidesResolvers(t *testing.T) {
	t.Parallel()
	testenv.RequireTool(t, "python3")
	testenv.RequireTool(t, "curl")
	b := newBench(t, hosts("google", world.GoogleAPIs))
	sockets := []string{"/run/nscd/socket", "/run/systemd/resolve/io.systemd.Resolve", "/run/avahi-daemon/socket"}
	all := strings.Join(append(sockets, "/run/dbus/system_bus_socket"), " ")
	interpreter := "/usr/bin/python3" // that any user may run
	if _, err := os.Stat(interpreter); err != nil {
		interpreter = "python3"
	}
	for _, user := range []string{"root", "nobody"} {
		knock := []string{interpreter, "-c", knockAll, all}
		line := b.line([]string{"--user", user, "--log-level", "warn"}, knock...)
		e := b.run(t, nil, "python3", append([]string{"-c", beside, all, egressd}, line...)...)
		for _, path := range sockets {
			if !strings.Contains(e.stdout, path+" Connection refused\n") {
				t.Errorf("%s: %s is not hidden: %+v", user, path, e)
			}
		}
		// The bus serves more than names.
		if !strings.Contains(e.stdout, "system_bus_socket open\n") || !strings.HasSuffix(e.stdout, "asked: /run/dbus/system_bus_socket\n") || e.code != 0 || e.stderr != "" {
			t.Errorf("%s: %+v", user, e)
		}
		// The twin.
		e = b.run(t, nil, "python3", append([]string{"-c", beside, all}, knock...)...)
		if strings.Count(e.stdout, " open\n") != 4 {
			t.Errorf("%s, without exec: %+v", user, e)
		}
	}
	// libc asks DNS then.
	fetch := b.line(nil, shell(b.fetch("https://"+world.GoogleAPIs+"/"))...)
	if e := b.run(t, nil, "python3", append([]string{"-c", beside, all, egressd}, fetch...)...); e.code != 0 || !strings.Contains(e.stdout, world.GoogleAPIs) {
		t.Errorf("a name: %+v", e)
	}
}

// TestRunNamesResolvers: run says at its start which ways around DNS there are.
func TestRunNamesResolvers(t *testing.T) {
	t.Parallel()
	testenv.RequireTool(t, "python3")
	n := prepare(t, map[string]string{"policy.yaml": hosts("google", world.GoogleAPIs)}, nil)
	n.d.Prefix = []string{"sh", "-c", `mount -t tmpfs tmpfs /run && mkdir /run/nscd &&
python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("/run/nscd/socket")' && exec "$@"`, "sh"}
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if log := n.d.Log(); strings.Count(log, "sockets=/run/nscd/socket remedy=") != 1 {
		t.Errorf("the log:\n%s", log)
	}
}
