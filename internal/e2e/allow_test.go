// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
)

// TestExecAllow: a command runs under a policy that is named in its flags, and its
// denial says how to allow it.
func TestExecAllow(t *testing.T) {
	t.Parallel()
	testenv.RequireTool(t, "curl")
	b := newBench(t, "")
	run := func(flags []string, script string) ended {
		args := append([]string{"exec", "--state-dir", b.state, "--pin-dir", b.pins, "--user", "root"}, flags...)
		return finish(t, b.client(t, nil, egressd, append(args, append([]string{"--"}, shell(script)...)...)...))
	}
	fetch := func(family, url string) string { return b.fetch(url) + " " + family }
	both := fetch("-4", "https://"+world.API+"/") + " && " + fetch("-6", "https://"+world.API+"/")
	for _, allow := range []string{world.API, "https://" + world.API, "*.example.com:443"} {
		e := run([]string{"--allow", allow}, both)
		if e.code != 0 || strings.Count(e.stdout, `{"origin"`) != 2 {
			t.Errorf("--allow %s: %+v", allow, e)
		}
	}
	b.noWire(t, func() {
		if e := run([]string{"--allow", world.GoogleAPIs, "--allow", world.API + ":8443"}, both); e.code == 0 || !strings.Contains(e.stderr, world.API) {
			t.Errorf("another host and another port: %+v", e)
		}
	}, b.API.V4.String(), b.API.V6.String())
	for addr, allow := range map[string]string{
		world.StrangerV4:             "203.0.113.0/24:80",
		"[" + world.StrangerV6 + "]": "[" + world.StrangerV6 + "]:80",
	} {
		fetch := b.fetch("http://" + addr + "/")
		if e := run([]string{"--allow", allow}, fetch); e.code != 0 {
			t.Errorf("--allow %s: %+v", allow, e)
		}
		if e := run([]string{"--allow", strings.Replace(allow, ":80", ":81", 1)}, fetch); e.code == 0 {
			t.Errorf("another port than --allow: %+v", e)
		}
	}
	list := filepath.Join(b.Dir(), "allowed.txt")
	if err := os.WriteFile(list, []byte("# the API\n"+world.API+":443\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	// An object of each of three lists for one host: their ports come together.
	if e := run([]string{"--allow-file", list, "--allow", world.API + ":80", "--config", b.config}, both+" && "+fetch("-4", "http://"+world.API+"/")); e.code != 0 {
		t.Errorf("lists together: %+v", e)
	}
	for _, wrong := range [][]string{{"--allow", "10.0.0.0/8"}, {"--allow", "*"}, {"--allow-file", "/nowhere"}} {
		marker := filepath.Join(b.Dir(), "ran")
		e := run(wrong, "touch "+marker)
		if _, err := os.Stat(marker); e.code != 125 || err == nil {
			t.Errorf("%v: %+v", wrong, e)
		}
	}
}

// TestRunAllowFile: a daemon follows a list.
func TestRunAllowFile(t *testing.T) {
	t.Parallel()
	list := filepath.Join(t.TempDir(), "allowed.txt")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(list+".new", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(list+".new", list); err != nil {
			t.Fatal(err)
		}
	}
	write(world.API + ":80\n")
	n := start(t, map[string]string{"policy.yaml": hosts("google", world.GoogleAPIs)}, nil, "--allow-file", list)
	for _, family := range []string{"-4", "-6"} {
		if a := n.curl(t, n.in, family, "http://"+world.API); a.status != 200 {
			t.Errorf("%s: listed: %+v", family, a)
		}
	}
	if e := n.egressd(t, "explain", "http://"+world.API+"/"); !strings.Contains(e.stdout, list+":1:") {
		t.Errorf("the place is not the list's: %s", e.stdout)
	}
	hash := n.status(t).Policy.Hash
	write("# nothing\n" + world.Stranger + ":80\n")
	eventually(t, 5*time.Second, "the list without it is in force", func() bool {
		return n.curl(t, n.in, "http://"+world.API).exit != 0
	})
	now := n.status(t).Policy.Hash
	if hash == now {
		t.Error("the hash is the same")
	}
	write("10.0.0.0/8\n") // an error changes nothing
	eventually(t, 5*time.Second, "the error is said", func() bool { return strings.Contains(n.d.Log(), list+":1: ") })
	if n.status(t).Policy.Hash != now {
		t.Error("an error changed the policy")
	}
}
