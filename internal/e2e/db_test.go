// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
)

// mariadb runs a real server where the seed's database is.
func mariadb(t *testing.T, w *world.World) {
	t.Helper()
	for _, tool := range []string{"mariadb", "mariadbd", "mariadb-install-db"} {
		testenv.RequireTool(t, tool)
	}
	w.DB.Close()
	dir := filepath.Join(w.Dir(), "mariadb")
	data := filepath.Join(dir, "data")
	if err := os.MkdirAll(data, 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	// A server that starts removes what others have in its directory for temporary files.
	temporary := "--tmpdir=" + dir
	install := w.Net.Command(ctx, nil, "mariadb-install-db", "--no-defaults", "--user=root", "--datadir="+data, temporary, "--skip-test-db", "--auth-root-authentication-method=normal")
	if out, err := install.CombinedOutput(); err != nil {
		cancel()
		t.Fatalf("mariadb-install-db: %v\n%s", err, out)
	}
	var log bytes.Buffer
	server := w.Net.Command(ctx, nil, "mariadbd", "--no-defaults", "--user=root", "--datadir="+data, temporary, "--bind-address="+world.DBV4, "--port=3306",
		"--socket="+filepath.Join(dir, "socket"), "--pid-file="+filepath.Join(dir, "pid"), "--skip-grant-tables", "--skip-name-resolve", "--innodb-buffer-pool-size=8M")
	server.Stdout, server.Stderr = &log, &log
	if err := server.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel() // kills it; its data goes with the world
		_ = server.Wait()
		if t.Failed() {
			t.Logf("mariadbd's log:\n%s", log.String())
		}
	})
	eventually(t, 30*time.Second, "MariaDB answers", func() bool {
		c, err := w.Node.Dial(t.Context(), "tcp", netip.MustParseAddrPort(world.DBV4+":3306"))
		if err != nil {
			return false
		}
		return c.Close() == nil
	})
}

// query asks the database for a number, by name. The C library says "try
// again" for a name that is refused, and the client does until the timeout.
func (n *node) query(t *testing.T, cg *world.Cgroup, host string) ended {
	t.Helper()
	return n.run(t, cg, "mariadb", "--no-defaults", "--skip-ssl", "--connect-timeout=2", "-u", "root", "-h", host, "-N", "-e", "SELECT 6*7")
}

// TestExternalDBStatic is the seed's headless Service with Endpoints that a
// STATIC ServiceEntry takes over: its name exists in egressd alone.
func TestExternalDBStatic(t *testing.T) {
	t.Parallel()
	n := start(t, seed(t, "external-db-static.yaml"), func(w *world.World) { mariadb(t, w) })
	if e := n.query(t, n.in, "external-db"); e.code != 0 || e.stdout != "42\n" {
		t.Errorf("by name: %+v", e)
	}
	if e := n.query(t, n.in, world.DBV4); e.stdout != "42\n" {
		t.Errorf("by address: %+v", e)
	}
	if asked := n.DNS.Asked("external-db"); asked != 0 {
		t.Errorf("the internet was asked %d times for a name of our own", asked)
	}
	// The twins: without egressd there is no such name, but there is the
	// address; with it, other ports and other names stay closed.
	if e := n.query(t, nil, "external-db"); e.code == 0 {
		t.Errorf("uncaptured, by name: %+v", e)
	}
	if e := n.query(t, nil, world.DBV4); e.stdout != "42\n" {
		t.Errorf("uncaptured, by address: %+v", e)
	}
	if e := n.query(t, n.in, world.ExternalDB); e.code == 0 {
		t.Errorf("a name that is not in the policy: %+v", e)
	}
}

// TestExternalDBDNS is the seed's database with a name of its own, which moves.
func TestExternalDBDNS(t *testing.T) {
	t.Parallel()
	moved := netip.MustParseAddrPort("190.64.31.240:3306")
	n := start(t, seed(t, "external-db-dns.yaml"), func(w *world.World) {
		mariadb(t, w)
		if _, err := w.AddTCP(moved, world.Greeting); err != nil {
			t.Fatal(err)
		}
		w.DNS.SetAAAA(world.ExternalDB, time.Minute)
	})
	if p := n.probe(t, n.in, "dial", moved.String()); p.Error == "" {
		t.Errorf("the database's next address is open before any answer named it")
	}
	if e := n.query(t, n.in, world.ExternalDB); e.code != 0 || e.stdout != "42\n" {
		t.Errorf("by name: %+v", e)
	}
	n.DNS.SetA(world.ExternalDB, time.Minute, moved.Addr())
	n.learn(t, world.ExternalDB)
	if p := n.probe(t, n.in, "dial", moved.String()); p.Error != "" {
		t.Errorf("after the move: %+v", p)
	}
	// The stand-in greets as a database does and then echoes: a client that
	// gets there fails, but not to connect.
	before := n.Packets(moved.Addr())
	if e := n.query(t, n.in, world.ExternalDB); n.Packets(moved.Addr()) == before {
		t.Errorf("the client did not follow: %+v", e)
	}
	// Programs may hold an address for as long as its TTL says.
	if p := n.probe(t, n.in, "dial", hostPort(world.DBV4, 3306)); p.Error != "" {
		t.Errorf("the old address within its TTL: %+v", p)
	}
	if p := n.probe(t, n.in, "dial", hostPort(world.DBV4, 3307)); p.Error == "" {
		t.Error("another port of the database is open")
	}
}
