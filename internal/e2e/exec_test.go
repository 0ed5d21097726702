// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
)

// bench is a little internet without a daemon, for egressd exec.
type bench struct {
	*node
	pins, state, config string
}

func newBench(t *testing.T, policy string) *bench {
	t.Helper()
	testenv.RequireCgroup2(t)
	testenv.RequireBPF(t)
	b := &bench{node: &node{World: testenv.World(t)}}
	fs, err := b.MountBPFFS()
	if err != nil {
		t.Fatal(err)
	}
	b.pins, b.state, b.config = filepath.Join(fs, "egressd"), filepath.Join(b.Dir(), "run"), filepath.Join(b.Dir(), "config")
	if err := os.Mkdir(b.config, 0o755); err != nil {
		t.Fatal(err)
	}
	b.policy(t, "policy.yaml", policy)
	t.Cleanup(func() {
		testenv.NoPins(t, b.pins)
		if left, err := os.ReadDir(b.state); len(left) > 0 || err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("files left: %v, %v", left, err)
		}
	})
	return b
}

// policy adds a file.
func (b *bench) policy(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(b.config, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// command prepares egressd exec, as root unless flags, which may be nil, say
// another user.
func (b *bench) command(t *testing.T, flags []string, command ...string) *world.Cmd {
	t.Helper()
	return b.client(t, nil, egressd, b.line(flags, command...)...)
}

// line are the arguments of egressd exec, as command describes them.
func (b *bench) line(flags []string, command ...string) []string {
	args := []string{"exec", "--config", b.config, "--state-dir", b.state, "--pin-dir", b.pins}
	if !slices.Contains(flags, "--user") {
		args = append(args, "--user", "root")
	}
	args = append(args, flags...)
	return append(append(args, "--"), command...)
}

func (b *bench) exec(t *testing.T, command ...string) ended {
	t.Helper()
	return finish(t, b.command(t, nil, command...))
}

// shell is a command for sh.
func shell(script string) []string { return []string{"sh", "-c", script} }

// fetch is a curl command that prints the body of url.
func (b *bench) fetch(url string) string {
	return "curl -q -sS --noproxy '*' --cacert " + b.CAFile() + " '" + url + "'"
}

func TestExec(t *testing.T) {
	t.Parallel()
	testenv.RequireTool(t, "curl")
	b := newBench(t, hosts("google", world.GoogleAPIs))
	t.Run("exit codes", func(t *testing.T) {
		badScript := filepath.Join(b.Dir(), "bad")
		if err := os.WriteFile(badScript, []byte("#!/no/such/interpreter\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		tests := []struct {
			command []string
			code    int
		}{
			{shell("exit 0"), 0},
			{shell("exit 3"), 3},
			{shell("kill -TERM $$"), 128 + 15},
			{shell("kill -KILL $$"), 128 + 9},
			{[]string{"/no/such/command"}, 127},
			{[]string{"no-such-command"}, 127},
			{[]string{b.CAFile()}, 126}, // not executable
			{[]string{b.Dir()}, 126},
			{[]string{badScript}, 127}, // as env(1) and shells have it
		}
		for _, tt := range tests {
			if e := b.exec(t, tt.command...); e.code != tt.code {
				t.Errorf("%v: %+v, want exit code %d", tt.command, e, tt.code)
			}
		}
	})
	t.Run("output", func(t *testing.T) {
		c := b.command(t, nil, shell(`cat; printf 'a\000b'; echo oops >&2; `+b.fetch("https://"+world.GoogleAPIs+"/x"))...)
		c.Stdin = strings.NewReader("input\n")
		e := finish(t, c)
		if !strings.HasPrefix(e.stdout, "input\na\x00b{") || !strings.Contains(e.stdout, `"path":"/x"`) || e.stderr != "oops\n" || e.code != 0 {
			t.Errorf("%+v", e)
		}
	})
	t.Run("denied", func(t *testing.T) { execDenied(t, b) })
	t.Run("readme", func(t *testing.T) { execReadme(t, b) })
	t.Run("signals", func(t *testing.T) { execSignals(t, b) })
	t.Run("background", func(t *testing.T) {
		e := b.exec(t, shell("sleep 600 & echo $!; setsid sleep 600 & echo $!")...)
		pids := strings.Fields(e.stdout)
		if len(pids) != 2 || e.code != 0 {
			t.Fatalf("%+v", e)
		}
		for _, text := range pids {
			// One that nobody has waited for yet is dead all the same.
			stat, err := os.ReadFile(filepath.Join("/proc", text, "stat"))
			if _, state, _ := strings.Cut(string(stat), ") "); err == nil && !strings.HasPrefix(state, "Z") {
				t.Errorf("process %s still runs: %s", text, stat)
			}
		}
	})
	t.Run("broken policy", func(t *testing.T) {
		b.policy(t, "broken.yaml", "kind: ServiceEntry\napiVersion: networking.istio.io/v1\nmetadata: {name: x}\nspec: {hosts: 7}\n")
		defer os.Remove(filepath.Join(b.config, "broken.yaml"))
		marker := filepath.Join(b.Dir(), "ran")
		e := b.exec(t, "touch", marker)
		if _, err := os.Stat(marker); e.code != 125 || !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%+v, the command ran: %v", e, err == nil)
		}
		if !strings.Contains(e.stderr, "broken.yaml:4:") {
			t.Errorf("the error is not shown: %q", e.stderr)
		}
	})
	t.Run("audit", func(t *testing.T) {
		e := finish(t, b.command(t, []string{"--mode", "audit"}, shell(b.fetch("http://"+world.API+"/x"))...))
		if e.code != 0 || !strings.Contains(e.stdout, world.API) || !strings.Contains(e.stderr, "would deny") || !strings.Contains(e.stderr, world.API) {
			t.Errorf("%+v", e)
		}
	})
}

// execDenied takes the advice that exec gives.
func execDenied(t *testing.T, b *bench) {
	script := b.fetch("https://"+world.API+"/") + "; " + b.fetch("http://"+world.StrangerV4+"/") + "; exit 5"
	var e ended
	b.noWire(t, func() { e = b.exec(t, shell(script)...) }, world.StrangerV4, b.API.V4.String(), b.API.V6.String())
	if e.code != 5 || e.stdout != "" {
		t.Errorf("%+v", e)
	}
	for _, want := range []string{world.API + " (dns): name-not-allowed", world.StrangerV4 + ":80/tcp: no-rule", "by curl"} {
		if !strings.Contains(e.stderr, want) {
			t.Errorf("the summary lacks %q:\n%s", want, e.stderr)
		}
	}
	_, advice, ok := strings.Cut(e.stderr, "This would allow them:\n")
	if !ok {
		t.Fatalf("no advice:\n%s", e.stderr)
	}
	b.policy(t, "advice.yaml", advice)
	defer os.Remove(filepath.Join(b.config, "advice.yaml"))
	e = b.exec(t, shell(script)...)
	if e.code != 5 || strings.Count(e.stdout, `{"origin"`) != 2 || strings.Contains(e.stderr, "denied") {
		t.Errorf("with the advice\n%s\n%+v", advice, e)
	}
	if e := finish(t, b.command(t, []string{"--quiet"}, shell(b.fetch("http://"+world.StrangerV6)+" 2>/dev/null; exit 5")...)); e.stderr != "" || e.code != 5 {
		t.Errorf("--quiet: %+v", e)
	}
}

// execReadme: what README.md shows of a denial is what exec says.
func execReadme(t *testing.T, b *bench) {
	page, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range testenv.Blocks(string(page)) {
		_, shown, ok := strings.Cut(block.Text, "\negressd denied")
		if !ok {
			continue
		}
		e := b.exec(t, shell(b.fetch("http://"+world.StrangerV4))...)
		if _, said, _ := strings.Cut(e.stderr, "\negressd denied"); said != shown {
			t.Errorf("the page shows\n%s\nand exec says\n%s", shown, e.stderr)
		}
		return
	}
	t.Error("the page shows no denial")
}

// execSignals: what ends a job ends the command, which may take its time and
// still use the network.
func execSignals(t *testing.T, b *bench) {
	for _, tt := range []struct {
		name, trap string
		code       int
	}{
		{"ends with a code", "echo got; exit 9", 9},
		{"ends well", "echo got; exit 0", 0},
		{"talks first", "echo got; " + b.fetch("https://"+world.GoogleAPIs+"/") + " >&2; exit 0", 0},
	} {
		c := b.command(t, nil, shell(`trap '`+strings.ReplaceAll(tt.trap, "'", `'\''`)+`' TERM; echo ready; while :; do sleep 0.05; done`)...)
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		var stderr strings.Builder
		c.Stderr = &stderr
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(out)
		if got, err := r.ReadString('\n'); got != "ready\n" {
			t.Errorf("%q, %v", got, err)
		}
		if err := c.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if got, err := r.ReadString('\n'); got != "got\n" {
			t.Errorf("%q, %v", got, err)
		}
		if rest, err := r.ReadString('\n'); rest != "" {
			t.Errorf("%s: the signal came twice, or more: %q, %v", tt.name, rest, err)
		}
		_ = c.Wait() // an exit code is no error here
		if code := c.ProcessState.ExitCode(); code != tt.code || strings.Contains(stderr.String(), "egressd") || strings.Contains(stderr.String(), "curl:") {
			t.Errorf("%s: exit code %d, %q", tt.name, code, stderr.String())
		}
	}
}

// TestExecBesideDaemon: exec needs no daemon and does not mind one.
func TestExecBesideDaemon(t *testing.T) {
	t.Parallel()
	n := start(t, seed(t, "googleapis.yaml"), nil)
	dir := filepath.Join(n.Dir(), "exec")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "policy.yaml")
	if err := os.WriteFile(path, []byte(hosts("api", world.API)), 0o644); err != nil {
		t.Fatal(err)
	}
	run := func(url string) ended {
		return n.run(t, nil, egressd, "exec", "--config", path, "--state-dir", n.d.StateDir(), "--pin-dir", n.d.PinDir(), "--",
			probe, "get", url, n.CAFile())
	}
	if e := run("https://" + world.API); !strings.Contains(e.stdout, `"status":200`) {
		t.Errorf("%+v", e)
	}
	// Each has its own policy.
	if e := run("https://" + world.GoogleAPIs); strings.Contains(e.stdout, `"status"`) || !strings.Contains(e.stderr, world.GoogleAPIs) {
		t.Errorf("%+v", e)
	}
	if a := n.curl(t, n.in, "https://"+world.GoogleAPIs); a.status != 200 {
		t.Errorf("the daemon's workload: %+v", a)
	}
	if a := n.curl(t, n.in, "https://"+world.API); a.exit != curlResolve {
		t.Errorf("the daemon's workload: %+v", a)
	}
}

// TestExecInsideWorkload: who is captured and runs exec has both policies for
// what is forwarded; the command's own policy can't allow more.
func TestExecInsideWorkload(t *testing.T) {
	t.Parallel()
	n := start(t, seed(t, "googleapis.yaml"), nil)
	path := filepath.Join(n.Dir(), "inner.yaml")
	if err := os.WriteFile(path, []byte(hosts("both", world.GoogleAPIs, world.API)), 0o644); err != nil {
		t.Fatal(err)
	}
	run := func(url string) ended {
		return n.run(t, n.in, egressd, "exec", "--config", path, "--state-dir", n.d.StateDir(), "--pin-dir", n.d.PinDir(), "--",
			probe, "get", url, n.CAFile())
	}
	if e := run("https://" + world.GoogleAPIs); !strings.Contains(e.stdout, `"status":200`) {
		t.Errorf("what both allow: %+v", e)
	}
	n.noWire(t, func() {
		if e := run("https://" + world.API); strings.Contains(e.stdout, `"status"`) {
			t.Errorf("what the outer policy denies: %+v", e)
		}
	}, n.API.V4.String(), n.API.V6.String())
}
