// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
)

// Hosts that speak what nobody expects on their ports.
const (
	oddHost, oddAddr = "odd.example.net", "93.184.216.79"
	sshHost, sshAddr = "ssh.example.net", "93.184.216.80"
)

// TestLearnOddPorts: what audited connections speak is learned of their first bytes, not
// of their ports: SSH on 443, TLS on 8443, HTTP on 8080, a database, UDP. Under what was
// learned nothing is denied, from the events of exec and from its flow log alike.
func TestLearnOddPorts(t *testing.T) {
	t.Parallel()
	testenv.RequireTool(t, "curl")
	b := newBench(t, "")
	mariadb(t, b.World)
	b.DNS.SetAAAA(world.ExternalDB, 60)
	odd, ssh := netip.MustParseAddr(oddAddr), netip.MustParseAddr(sshAddr)
	if _, err := b.AddOrigin(world.OriginConfig{Names: []string{oddHost}, V4: odd, HTTP: []uint16{8080}, HTTPS: []uint16{8443}}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.AddTCP(netip.AddrPortFrom(ssh, 443), "SSH-2.0-server\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.AddUDP(netip.AddrPortFrom(ssh, 443)); err != nil {
		t.Fatal(err)
	}
	if err := b.AddName(sshHost, ssh, netip.Addr{}); err != nil {
		t.Fatal(err)
	}
	script := "set -e; " + b.fetch("https://"+oddHost+":8443/tls") + "; " + b.fetch("http://"+oddHost+":8080/plain") + `
mariadb --no-defaults --skip-ssl --connect-timeout=5 -u root -h ` + world.ExternalDB + ` -N -e 'SELECT 6*7'
python3 -c '
import socket
at = ("` + sshHost + `", 443)
with socket.create_connection(at, 10) as s:
    assert s.recv(64).startswith(b"SSH-2.0")
    s.sendall(b"SSH-2.0-client\r\n")
    assert s.recv(64) == b"SSH-2.0-client\r\n"
# who speaks first there
with socket.create_connection(at, 10) as s:
    s.sendall(b"SSH-2.0-client\r\n")
    assert s.recv(64)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.settimeout(10)
    s.connect(at)
    s.send(b"datagram")
    assert s.recv(64) == b"datagram"
'`
	learned, flows := filepath.Join(b.Dir(), "learned.yaml"), filepath.Join(b.Dir(), "flows.jsonl")
	run := func(flags ...string) ended {
		return finish(t, b.client(t, nil, egressd, append(append([]string{"exec", "--user", "root", "--state-dir", b.state, "--pin-dir", b.pins}, flags...), "--", "sh", "-c", script)...))
	}
	if e := run("--learn", learned, "--flow-log", flows); e.code != 0 {
		t.Fatalf("learning: %+v", e)
	}
	text, err := os.ReadFile(learned)
	if err != nil {
		t.Fatal(err)
	}
	e := finish(t, b.client(t, nil, egressd, "suggest", "--from", flows))
	if e.code != 0 {
		t.Fatalf("suggest --from: %+v", e)
	}
	for from, policy := range map[string]string{"exec": string(text), "the flow log": e.stdout} {
		for _, want := range []string{"https-8443", "http-8080", "tcp-3306", "tcp-443", "udp-443"} {
			if !strings.Contains(policy, "name: "+want+"\n") {
				t.Errorf("of %s: no %s in\n%s", from, want, policy)
			}
		}
		if strings.Contains(policy, "nobody read") || strings.Contains(policy, "addresses:") {
			t.Errorf("of %s: more than first bytes counts:\n%s", from, policy)
		}
		file := filepath.Join(b.Dir(), "enforced.yaml")
		if err := os.WriteFile(file, []byte(policy), 0o644); err != nil {
			t.Fatal(err)
		}
		if e := run("--config", file); e.code != 0 || strings.Contains(e.stderr, "denied") {
			t.Errorf("under what was learned of %s: %+v\n%s", from, e, policy)
		}
	}
	// The twin: as the port's usual protocol it is denied.
	if err := os.WriteFile(learned, regexp.MustCompile(`name: tcp-443\s+protocol: TCP`).ReplaceAll(text, []byte("name: https-443\n          protocol: HTTPS")), 0o644); err != nil {
		t.Fatal(err)
	}
	if e := run("--config", learned); e.code == 0 {
		t.Errorf("SSH as HTTPS: %+v", e)
	}
}
