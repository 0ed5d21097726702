// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/world"
)

// TestLearn: what a command did in audit mode, without a policy, is written as a
// policy; under that it does the same again, and no more.
func TestLearn(t *testing.T) {
	t.Parallel()
	b := newBench(t, "")
	learned := filepath.Join(b.Dir(), "learned.yaml")
	// A web site by HTTP and HTTPS, a database by its name, and a name that is
	// asked for and never connected to.
	const work = `
curl -sS --noproxy '*' --max-time 10 --cacert "$1" -o /dev/null http://` + world.GoogleAPIs + `/ https://` + world.GoogleAPIs + `/ &&
python3 -c '
import socket
socket.getaddrinfo("` + world.API2 + `", 443)
s = socket.create_connection(("` + world.ExternalDB + `", 3306), 10)
assert s.recv(64)
'`
	line := func(flags ...string) []string {
		args := append([]string{"exec", "-q", "--user", "root", "--state-dir", b.state, "--pin-dir", b.pins, "--dns-server", world.ResolverV4}, flags...)
		return append(args, "--", "sh", "-c", work, "sh", b.CAFile())
	}
	run := func(flags ...string) ended { return b.run(t, nil, egressd, line(flags...)...) }

	if e := run("--mode", "audit", "--suggest", learned); e.code != 0 {
		t.Fatalf("in audit mode: %+v", e)
	}
	text, err := os.ReadFile(learned)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{world.GoogleAPIs, world.ExternalDB, "number: 80\n", "number: 443\n", "number: 3306\n", "no port is known: " + world.API2} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%q is not in what was learned:\n%s", want, text)
		}
	}
	for _, no := range []string{"addresses:", world.DBV4, world.Stranger} {
		if strings.Contains(string(text), no) {
			t.Errorf("%q is in what was learned:\n%s", no, text)
		}
	}
	if e := b.run(t, nil, egressd, "check", learned); e.code != 0 {
		t.Errorf("check: %+v", e)
	}
	// What it only asked for is not learned, so it is left out now.
	enforced := strings.Replace(work, "socket.getaddrinfo(\""+world.API2+"\", 443)\n", "", 1)
	again := func(config string) ended {
		args := line("--config", config)
		args[len(args)-3] = enforced
		return b.run(t, nil, egressd, args...)
	}
	if e := again(learned); e.code != 0 {
		t.Errorf("under what was learned: %+v\n%s", e, text)
	}
	empty := filepath.Join(b.Dir(), "empty.yaml")
	if err := os.WriteFile(empty, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if e := again(empty); e.code == 0 {
		t.Errorf("the twin, under an empty policy: %+v", e)
	}
}
