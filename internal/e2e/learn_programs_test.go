// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
)

const (
	// git and the co-tenant have one address.
	gitHost, gitAddr  = "git.example.net", "93.184.216.77"
	coTenant          = "tenant.example.net"
	gitPort, httpPort = 9418, 80
)

// gitServer serves a repository by git's own protocol.
func gitServer(t *testing.T, w *world.World) {
	t.Helper()
	testenv.RequireTool(t, "git")
	dir := filepath.Join(w.Dir(), "git")
	for _, args := range [][]string{
		{"init", "-q", "-b", "main", dir + "/work"},
		{"-C", dir + "/work", "-c", "user.name=a", "-c", "user.email=a@example.net", "commit", "-q", "--allow-empty", "-m", "first"},
		{"clone", "-q", "--bare", dir + "/work", dir + "/repo.git"},
	} {
		c := exec.Command("git", args...)
		c.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "HOME="+w.Dir())
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v: %s", args, err, out)
		}
	}
	addr := netip.MustParseAddr(gitAddr)
	// Web servers of both names, and the address for them.
	if _, err := w.AddOrigin(world.OriginConfig{Names: []string{gitHost, coTenant}, V4: addr}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := w.Net.Command(ctx, nil, "git", "daemon", "--export-all", "--reuseaddr", "--base-path="+dir, "--listen="+gitAddr, fmt.Sprintf("--port=%d", gitPort), dir)
	c.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "HOME="+w.Dir(), "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*")
	var log bytes.Buffer
	c.Stdout, c.Stderr = &log, &log
	if err := c.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); _ = c.Wait() })
	eventually(t, 30*time.Second, "git answers", func() bool {
		conn, err := w.Node.Dial(t.Context(), "tcp", netip.AddrPortFrom(addr, gitPort))
		if err != nil {
			return false
		}
		return conn.Close() == nil
	})
}

// learnExec runs exec without a policy, in audit mode, and returns what it learned.
func (b *bench) learnExec(t *testing.T, command ...string) (policy string, e ended) {
	t.Helper()
	file := filepath.Join(b.Dir(), "learned.yaml")
	_ = os.Remove(file) // of the command before
	c := b.client(t, nil, egressd, append([]string{"exec", "--mode", "audit", "--suggest", file, "--user", "root", "--state-dir", b.state, "--pin-dir", b.pins, "--"}, command...)...)
	e = finish(t, c)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text), e
}

// TestLearnPrograms: what a command needs is learned in audit mode without a policy;
// under what was learned it passes, without it it fails.
func TestLearnPrograms(t *testing.T) {
	t.Parallel()
	testenv.RequireTool(t, "curl")
	testenv.RequireTool(t, "mariadb")
	b := newBench(t, hosts("unrelated", world.Stranger))
	mariadb(t, b.World)
	gitServer(t, b.World)
	b.DNS.SetAAAA(world.ExternalDB, time.Minute)
	clone := fmt.Sprintf("cd %s && rm -rf clone && HOME=/ git clone -q git://%s:%d/repo.git clone && git -C clone log --format=%%s", b.Dir(), gitHost, gitPort)
	for name, tt := range map[string]struct {
		script string
		out    string   // of the command that passes
		has    []string // what is learned
	}{
		"https": {b.fetch("https://"+world.API+"/x") + "; " + b.fetch("http://"+world.API2+"/y"), `"path":"/y"`,
			[]string{world.API, world.API2, "number: 443", "number: 80", "protocol: HTTPS", "protocol: HTTP\n"}},
		"git": {clone, "first\n", []string{gitHost, "number: 9418", "protocol: TCP"}},
		"database": {"mariadb --no-defaults --skip-ssl --connect-timeout=5 -u root -h " + world.ExternalDB + " -N -e 'SELECT 6*7'", "42\n",
			[]string{world.ExternalDB, "number: 3306", "protocol: TCP"}},
		"an address": {b.fetch("http://"+world.StrangerV4) + "; " + b.fetch("http://["+world.StrangerV6+"]"), `{"origin"`,
			[]string{"- " + world.StrangerV4, "- " + world.StrangerV6, "number: 80"}},
	} {
		script := shell("set -e; " + tt.script)
		policy, e := b.learnExec(t, script...)
		if e.code != 0 || !strings.Contains(e.stdout, tt.out) {
			t.Errorf("%s: learning: %+v", name, e)
			continue
		}
		for _, want := range tt.has {
			if !strings.Contains(policy, want) {
				t.Errorf("%s: %q was not learned:\n%s", name, want, policy)
			}
		}
		if name != "an address" && strings.Contains(policy, "addresses:") || strings.Contains(policy, "UDP") || strings.Contains(policy, coTenant) {
			t.Errorf("%s: more than the names was learned:\n%s", name, policy)
		}
		// The twin: under a policy for something else it fails.
		if e := b.exec(t, script...); e.code == 0 {
			t.Errorf("%s: without what was learned: %+v", name, e)
		}
		b.policy(t, "learned.yaml", policy)
		if e := b.exec(t, script...); e.code != 0 || !strings.Contains(e.stdout, tt.out) || strings.Contains(e.stderr, "no-rule") { // git asks for the machine's own name
			t.Errorf("%s: with\n%s\n%+v", name, policy, e)
		}
		if name == "git" {
			// Who has the same address is not let in by it.
			if e := b.exec(t, shell(b.fetch("https://"+coTenant))...); e.code == 0 {
				t.Errorf("the co-tenant: %+v", e)
			}
		}
		if err := os.Remove(filepath.Join(b.config, "learned.yaml")); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLearnShared: of an address with two names the one that the program asked
// for is learned; one that asked for both gets both, and that is said.
func TestLearnShared(t *testing.T) {
	t.Parallel()
	testenv.RequireTool(t, "curl")
	b := newBench(t, hosts("unrelated", world.Stranger))
	gitServer(t, b.World)
	policy, _ := b.learnExec(t, shell(b.fetch("https://"+gitHost)+"; "+b.fetch("https://"+coTenant))...)
	for _, host := range []string{gitHost, coTenant} {
		if strings.Count(policy, fmt.Sprintf("- %q\n", host)) != 1 {
			t.Errorf("%s: learned\n%s", host, policy)
		}
	}
	if strings.Contains(policy, "in common") {
		t.Errorf("two programs, one name each: learned\n%s", policy)
	}
	both := "import socket\nfor h in '" + gitHost + "', '" + coTenant + "': a = socket.getaddrinfo(h, 80)[0][4]\nsocket.create_connection(a)"
	policy, _ = b.learnExec(t, python(t), "-c", both)
	if strings.Count(policy, "in common: "+gitHost+", "+coTenant) != 2 {
		t.Errorf("one program, two names: learned\n%s", policy)
	}
	// Names that were only asked for are no reason to open anything.
	policy, e := b.learnExec(t, python(t), "-c", "import socket; socket.getaddrinfo('"+gitHost+"', 80)")
	if strings.Contains(policy, "kind:") || !strings.Contains(policy, "no port is known: "+gitHost) || !strings.Contains(e.stderr, gitHost+" (dns)") {
		t.Errorf("a name that was asked for: learned\n%s\n%+v", policy, e)
	}
}

// TestSuggestFile: what is learned is put among what the file has, and a link
// that the command puts in its place leads nowhere.
func TestSuggestFile(t *testing.T) {
	t.Parallel()
	testenv.RequireTool(t, "curl")
	b := newBench(t, hosts("unrelated", world.Stranger))
	file, victim := filepath.Join(b.Dir(), "policy.yaml"), filepath.Join(b.Dir(), "victim")
	for path, text := range map[string]string{file: "# mine\n" + hosts("mine", world.API2), victim: "precious"} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	learn := func(script string) string {
		t.Helper()
		c := b.client(t, nil, egressd, "exec", "-q", "--mode", "audit", "--suggest", file, "--user", "root", "--state-dir", b.state, "--pin-dir", b.pins, "--", "sh", "-c", script)
		if e := finish(t, c); e.code != 0 {
			t.Fatalf("%+v", e)
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	first := learn(b.fetch("https://" + world.API))
	for _, want := range []string{"# mine", world.API2, world.API} {
		if !strings.Contains(first, want) {
			t.Errorf("%q is not in\n%s", want, first)
		}
	}
	if again := learn("true"); again != first {
		t.Errorf("nothing was learned, and there is\n%s", again)
	}
	if again := learn(b.fetch("https://" + world.API)); again != first {
		t.Errorf("a second time:\n%s", again)
	}
	if text := learn("rm " + file + " && ln -s " + victim + " " + file + "; " + b.fetch("http://"+world.API)); text != "precious" {
		t.Errorf("the command made egressd write %q", text)
	}
}

// TestLearnNode: a daemon without a policy learns one, too.
func TestLearnNode(t *testing.T) {
	t.Parallel()
	n := start(t, map[string]string{}, nil, "--mode", "audit")
	if a := n.curl(t, n.in, "https://"+world.API+"/x"); a.status != 200 {
		t.Fatalf("%+v", a)
	}
	eventually(t, soon, "a suggestion", func() bool {
		e := n.egressd(t, "suggest")
		return e.code == 0 && strings.Contains(e.stdout, world.API) && strings.Contains(e.stdout, "number: 443") && !strings.Contains(e.stdout, "addresses:")
	})
}
