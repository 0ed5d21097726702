// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/world"
)

// keep does what a descriptor store is told (sd_pid_notify_with_fds(3)).
func (m *manager) keep(state string, rights []byte) {
	_, name, _ := strings.Cut(state, "FDNAME=")
	name, _, _ = strings.Cut(name, "\n")
	if strings.HasPrefix(state, "FDSTOREREMOVE=1") {
		for _, f := range m.stored[name] {
			_ = f.Close()
		}
		delete(m.stored, name)
		return
	}
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil || len(messages) != 1 {
		return
	}
	fds, _ := unix.ParseUnixRights(&messages[0]) // none, then
	for _, fd := range fds {
		m.stored[name] = append(m.stored[name], os.NewFile(uintptr(fd), name))
	}
}

// drop empties the store.
func (m *manager) drop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, files := range m.stored {
		for _, f := range files {
			_ = f.Close()
		}
		delete(m.stored, name)
	}
}

// give makes the next start of the daemon have what is stored.
func (m *manager) give(d *world.Daemon) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	d.Files = nil
	for name, files := range m.stored {
		for _, f := range files {
			names, d.Files = append(names, name), append(d.Files, f)
		}
	}
	// exec(1) of a shell keeps the process's number.
	d.Prefix = append([]string{"sh", "-c", `export LISTEN_PID=$$; exec "$@"`, "sh"}, m.prefix(time.Minute)...)
	d.Prefix = append(d.Prefix, fmt.Sprintf("LISTEN_FDS=%d", len(names)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
}

// TestStoredSockets: a restart by a service manager that keeps the sockets is
// noticed by nobody who asks or connects. The twin: without a store it is.
func TestStoredSockets(t *testing.T) {
	t.Parallel()
	n := takeoverNode(t, "--drain-time", "1s")
	m := newManager(t)
	n.d.Prefix = m.prefix(time.Minute)
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.learn(t, world.GoogleAPIs, world.API)
	restart := func(stored bool) (failed int, what string) {
		t.Helper()
		client := n.busy(t)
		n.learn(t, world.API) // it has begun
		if err := n.d.Terminate(); err != nil {
			t.Errorf("SIGTERM: %v", err)
		}
		if stored {
			m.give(n.d)
		} else {
			n.d.Prefix, n.d.Files = nil, nil
		}
		begin := time.Now()
		if err := n.d.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		took := time.Since(begin)
		n.learn(t, world.API)
		rounds, failed, what := client.ended(t)
		t.Logf("stored %v: the start took %v; %d of %d failed: %s", stored, took, failed, rounds, what)
		if rounds < 4 { // each kind once: a start is short, and most of it they wait
			t.Errorf("only %d attempts", rounds)
		}
		return failed, what
	}
	for range 2 {
		if failed, what := restart(true); failed > 0 {
			t.Errorf("%d attempts failed: %s", failed, what)
		}
	}
	m.drop()
	if failed, _ := restart(false); failed == 0 {
		t.Error("a restart without a store went unnoticed: the test cannot fail")
	}
}

// TestServesWhileItEnds: a daemon that was told to end and has a connection
// open answers and accepts on until it ends, which is within the drain time.
func TestServesWhileItEnds(t *testing.T) {
	t.Parallel()
	const drain = 6 * time.Second
	n := takeoverNode(t, "--drain-time", drain.String())
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.learn(t, world.GoogleAPIs, world.API)
	stream := n.open(t, hostPort(via6, 7))
	begin := time.Now()
	ended := make(chan error, 1)
	n.signal(t, unix.SIGTERM)
	go func() { ended <- n.d.Ended() }()
	n.logs(t, 0, "egressd stops")
	for _, network := range []string{"udp", "tcp"} {
		if p := n.probe(t, n.in, "dns", network, hostPort(world.ResolverV4, 53), world.API, "A"); p.Rcode != "NOERROR" {
			t.Errorf("DNS over %s while it ends: %+v", network, p)
		}
	}
	for _, addr := range []string{n.GoogleAPIs.V4.String(), n.GoogleAPIs.V6.String()} {
		if p := n.probe(t, n.in, "dial", hostPort(addr, 80)); p.Error != "" {
			t.Errorf("a new connection while it ends: %+v", p)
		}
	}
	if !stream.echo("ending") {
		t.Error("the connection that it waits for was cut")
	}
	if early := time.Since(begin); early > drain-time.Second {
		t.Logf("the machine took %v; the daemon may have been in its last second", early)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
		if took := time.Since(begin); took < drain/2 || took > drain+soon {
			t.Errorf("it ended after %v with a connection open", took)
		}
	case <-time.After(drain + 2*soon):
		t.Error("it did not end")
	}
	// The twin: nothing serves after it.
	if p := n.probe(t, n.in, "dial", hostPort(n.GoogleAPIs.V4.String(), 80)); p.Error == "" {
		t.Error("somebody serves after its end")
	}
}
