// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/peek/peektest"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
)

// buildVersions makes two versions, of which the second has other tables.
func buildVersions(t *testing.T) (binaries [2]string) {
	t.Helper()
	testenv.RequireRoot(t)
	dir := t.TempDir()
	for i, flags := range []string{
		"-X main.version=v1",
		"-X main.version=v2 -X github.com/egressd/egressd/loader/layout.meaning=other",
	} {
		name := []string{"egressd-v1", "egressd-v2"}[i]
		var err error
		if binaries[i], err = testenv.Build(dir, name, "../../cmd/egressd", "-ldflags", flags); err != nil {
			t.Fatal(err)
		}
	}
	return binaries
}

// upgradePort is where an echo server takes what claims to be TLS.
const upgradePort = 9443

// upgradePolicy opens the API for TCP, TLS and UDP.
const upgradePolicy = `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: api}
spec:
  hosts: [` + world.API + `]
  ports:
  - {number: 7, name: tcp, protocol: TCP}
  - {number: 9443, name: tls, protocol: TLS}
  resolution: DNS
---
`

// clientHello is the first record of a TLS client.
func clientHello(t *testing.T, name string) []byte {
	t.Helper()
	record, err := peektest.ClientHello(&tls.Config{ServerName: name})
	if err != nil {
		t.Fatal(err)
	}
	return record
}

// raw sends bytes; false when they do not come back.
func (l *line) raw(data []byte) bool {
	if _, err := l.in.Write(data); err != nil {
		return false
	}
	got := make([]byte, len(data))
	_, err := io.ReadFull(l.out, got)
	return err == nil && bytes.Equal(got, data)
}

// tlsData is a record of application data (RFC 8446 section 5.1): behind a
// ClientHello comes TLS.
func tlsData(text string) []byte {
	return append([]byte{23, 3, 3, 0, byte(len(text))}, text...)
}

// table is the id of a pinned map.
func (n *node) table(t *testing.T, name string) uint32 {
	t.Helper()
	return testenv.PinnedMap(t, filepath.Join(n.d.PinDir(), "node", name))
}

// knocking is a running "knock" client.
type knocking struct {
	*line
	c *world.Cmd
}

func (n *node) knock(t *testing.T, cg *world.Cgroup, open string, closed ...string) *knocking {
	t.Helper()
	c := n.Client(t.Context(), cg, probe, append([]string{"knock", open}, closed...)...)
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	c.Stdout = &out
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	return &knocking{line: &line{in: in}, c: c}
}

// end ends the client and returns what it saw.
func (k *knocking) end(t *testing.T) (rounds, good int) {
	t.Helper()
	_ = k.in.Close() // it may have ended
	if err := k.c.Wait(); err != nil {
		t.Fatal(err)
	}
	text := strings.TrimPrefix(k.c.Stdout.(*bytes.Buffer).String(), "open\n")
	var r struct {
		Error        string
		Rounds, Good int
	}
	if err := json.Unmarshal([]byte(text), &r); err != nil || r.Error != "" || r.Rounds == 0 {
		t.Errorf("knocking: %s (%v)", text, err)
	}
	return r.Rounds, r.Good
}

// TestUpgrade: another version takes the place of the one that runs, ended in
// order or killed, up and down, while connections are open and others are
// tried: what is open lives, and what is closed is never open.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	binaries := buildVersions(t)
	n := prepare(t, map[string]string{"api.yaml": upgradePolicy}, func(w *world.World) {
		for _, s := range []*world.Server{w.Echo, w.Echo6} {
			if _, err := w.AddTCP(netip.AddrPortFrom(s.Addr.Addr(), upgradePort), ""); err != nil {
				t.Fatal(err)
			}
		}
	})
	n.d.Install(binaries[0])
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.learn(t, world.API)
	six := n.Echo6.Addr.Addr().String()
	eventually(t, soon, "what was learned is on disk", func() bool {
		b, err := os.ReadFile(filepath.Join(n.d.StateDir(), "learned.json"))
		return err == nil && strings.Contains(string(b), six)
	})
	closed := []string{hostPort(world.StrangerV4, 443), hostPort(world.StrangerV6, 443)}
	var direct, proven, silent []*line
	for _, s := range []*world.Server{n.Echo, n.Echo6} {
		tlsAddr := netip.AddrPortFrom(s.Addr.Addr(), upgradePort).String()
		// As long as the test runs.
		open := func(addr string) *line { return n.session(t, n.Client(t.Context(), n.in, probe, "session", addr)) }
		direct = append(direct, open(s.Addr.String()))
		proven = append(proven, open(tlsAddr))
		silent = append(silent, open(tlsAddr), open(tlsAddr))
	}
	for _, l := range proven {
		if !l.raw(clientHello(t, world.API)) {
			t.Fatal("an inspected connection does not work")
		}
	}
	knocker := n.knock(t, n.in, n.Echo.Addr.String(), closed...)
	n.noWire(t, func() {
		programs, table := n.status(t).Programs, [2]uint32{n.table(t, "egd_addrs"), n.table(t, "egd_flows")}
		for _, step := range []struct {
			name, version string
			binary        int
			end           func() error
		}{
			{"upgrade", "v2", 1, n.d.Terminate},
			{"downgrade", "v1", 0, n.d.Terminate},
			{"upgrade after kill -9", "v2", 1, n.d.Kill},
			{"downgrade after kill -9", "v1", 0, n.d.Kill},
			{"restart after kill -9", "v1", 0, n.d.Kill},
		} {
			if err := step.end(); err != nil && !strings.Contains(step.name, "kill") {
				t.Fatalf("%s: ending egressd: %v", step.name, err)
			}
			n.d.Install(binaries[step.binary])
			if err := n.d.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			s := n.status(t)
			if s.Version != step.version || len(s.Programs) != len(programs) {
				t.Errorf("%s: status says %s with programs %v", step.name, s.Version, s.Programs)
			}
			for name, id := range s.Programs {
				if id == programs[name] {
					t.Errorf("%s: %s is still program %d", step.name, name, id)
				}
			}
			programs = s.Programs
			// What the policy says is written anew at each start, the rest
			// when the version is another.
			now := [2]uint32{n.table(t, "egd_addrs"), n.table(t, "egd_flows")}
			if other := step.name != "restart after kill -9"; now[0] == table[0] || (now[1] != table[1]) != other {
				t.Errorf("%s: egd_addrs and egd_flows were %d and are %d", step.name, table, now)
			}
			table = now
			for i := range direct {
				if !direct[i].echo(step.name) || !proven[i].raw(tlsData(step.name)) {
					t.Errorf("%s: a connection was cut", step.name)
				}
			}
		}
		for i, l := range silent {
			good := i%2 == 0
			name := world.API
			if !good {
				name = world.Stranger
			}
			if l.raw(clientHello(t, name)) != good {
				t.Errorf("a connection that showed %s after it all: want passed %v", name, good)
			}
		}
		if rounds, good := knocker.end(t); good != 0 {
			t.Errorf("%d attempts of %d rounds went through", good, rounds)
		}
	}, world.StrangerV4, world.StrangerV6)
	// The twin: who is not captured gets through each time.
	twin := n.knock(t, nil, n.Echo.Addr.String(), closed...)
	eventually(t, soon, "the twin reaches the stranger", func() bool {
		return n.Packets(netip.MustParseAddr(world.StrangerV4)) > 0 && n.Packets(netip.MustParseAddr(world.StrangerV6)) > 0
	})
	if rounds, good := twin.end(t); good < rounds {
		t.Errorf("uncaptured: %d attempts of %d rounds went through", good, rounds)
	}
}
