// SPDX-License-Identifier: Apache-2.0

package uitest

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
)

// node is a little internet with egressd on its node, and the page's address.
type node struct {
	*world.World
	d    *world.Daemon
	in   *world.Cgroup // what is captured
	base string
}

func start(t *testing.T) *node {
	t.Helper()
	testenv.RequireCgroup2(t)
	testenv.RequireBPF(t)
	testenv.RequireTool(t, "curl")
	n := &node{World: testenv.World(t)}
	policy, err := os.ReadFile("../../examples/seed/googleapis.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if n.d, err = n.NewDaemon(egressd, map[string][]byte{"policy.yaml": policy}, "--admin-address", "localhost:15000", "--volatile-pins"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the daemon's log:\n%s", n.d.Log())
		}
		if err := n.d.Stop(); err != nil {
			t.Error(err)
		}
	})
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n.in, err = n.d.Root.Child("workload"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.in.Close(); err != nil {
			t.Error(err)
		}
	})
	n.base = n.lead(t)
	return n
}

// lead leads from the machine's loopback to the admin address of the node, as ssh -L
// does: the browser stays where it is.
func (n *node) lead(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	testenv.Lead(t, ln, func(ctx context.Context) (net.Conn, error) {
		return n.Node.Dial(ctx, "tcp", netip.MustParseAddrPort("127.0.0.1:15000"))
	})
	return "http://" + ln.Addr().String()
}

// curl asks from within what is captured, under a name of the program, and returns the
// status; "000": none.
func (n *node) curl(t *testing.T, name, url string) string {
	t.Helper()
	program, err := exec.LookPath("curl")
	if err != nil {
		t.Fatal(err)
	}
	called := filepath.Join(n.Dir(), name)
	if err := os.Symlink(program, called); err != nil && !os.IsExist(err) {
		t.Fatal(err)
	}
	out, _ := n.Client(t.Context(), n.in, called, "-q", "-s", "--noproxy", "*", "-m", "20", "--cacert", n.CAFile(), "-o", "/dev/null", "-w", "%{http_code}", url).Output()
	return string(out)
}

// allowed waits until the daemon's policy allows something.
func (n *node) allowed(t *testing.T, target string) {
	t.Helper()
	limit := time.After(patience)
	for tick := time.NewTicker(50 * time.Millisecond); ; {
		var x struct{ Allowed bool }
		if answer, err := http.Get(n.base + "/explain?target=" + target); err == nil {
			err = json.NewDecoder(answer.Body).Decode(&x)
			answer.Body.Close()
			if err == nil && x.Allowed {
				tick.Stop()
				return
			}
		}
		select {
		case <-limit:
			t.Fatalf("%s is not allowed yet", target)
		case <-tick.C:
		}
	}
}

// TestPageOverDaemon: the page over a daemon shows an allowed, a proxied and a denied flow, and
// tells a hostile program's name; what it copies for the denied one, put into the policy,
// allows it, and the page says so.
func TestPageOverDaemon(t *testing.T) {
	n := start(t)
	denied := "http://" + world.API + "/"
	for _, c := range []struct{ name, url, want string }{
		{"proxied", "http://" + world.GoogleAPIs + "/hello", "200"},
		{"allowed", "https://" + world.GoogleAPIs + "/", "200"},
		{"<img src=x>", "http://" + world.StrangerV4 + "/", "000"},
		{"stopped", denied, "000"},
		{"port", "http://" + world.GoogleAPIs + ":81/", "000"},
	} {
		if got := n.curl(t, c.name, c.url); got != c.want {
			t.Fatalf("%s %s: %s", c.name, c.url, got)
		}
	}
	x := open(t, n.base+"/ui/")
	edge := func(outcome, who, host string) string {
		return `[...document.querySelectorAll('#map .edge.` + outcome + ` title')].some(t => t.textContent.startsWith('` + who + ` → ` + host + `'))`
	}
	x.is(t, "the proxied flow", edge("proxied", "proxied", world.GoogleAPIs))
	x.is(t, "the allowed flow", edge("allowed", "allowed", world.GoogleAPIs))
	x.is(t, "the denied name", edge("denied", "stopped", world.API))
	x.is(t, "the hostile program", edge("denied", "<img src=x>", world.StrangerV4))
	x.is(t, "the state", `document.querySelector('#state').textContent === 'ready'`)
	x.look(t, "daemon", "dark")
	x.look(t, "daemon", "light")

	x.do(t, browser.SetPermission(&browser.PermissionDescriptor{Name: "clipboard-read"}, browser.PermissionSettingGranted),
		browser.SetPermission(&browser.PermissionDescriptor{Name: "clipboard-write"}, browser.PermissionSettingGranted),
		chromedp.Evaluate(`[...document.querySelectorAll('tr.denied')].find(r => r.textContent.includes('stopped')).querySelector('button').click()`, nil),
		chromedp.WaitVisible("#copy", chromedp.ByQuery))
	x.look(t, "denied", "light")
	x.do(t, chromedp.Click("#copy", chromedp.ByQuery))
	x.is(t, "it says that it is copied", `document.querySelector('#details [role=status]').textContent.startsWith('Copied')`)
	var copied string
	x.do(t, chromedp.Evaluate("navigator.clipboard.readText()", &copied, func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }))
	if !strings.Contains(copied, "kind: ServiceEntry") || !strings.Contains(copied, world.API) {
		t.Fatalf("copied: %q", copied)
	}
	x.do(t, chromedp.Evaluate("document.querySelector('#details').close()", nil),
		chromedp.Evaluate(`[...document.querySelectorAll('tr.denied')].find(r => r.textContent.includes(':81')).querySelector('button').click()`, nil))
	x.is(t, "the port that an object lacks", `document.querySelector('#details pre')?.textContent.includes('number: 81') && document.querySelector('#copy').textContent === 'Copy the port'`)
	x.look(t, "port", "dark")
	x.do(t, chromedp.Evaluate("document.querySelector('#details').close()", nil))

	// It was refused before a port was known, so that 443 was guessed.
	if err := os.WriteFile(filepath.Join(n.d.ConfigDir(), "copied.yaml"), []byte(copied), 0o644); err != nil {
		t.Fatal(err)
	}
	n.allowed(t, world.API+":443")
	if got := n.curl(t, "stopped", "https://"+world.API+"/"); got != "200" {
		t.Errorf("what the page's ServiceEntry allows: %s", got)
	}
	x.is(t, "it is allowed now", edge("allowed", "stopped", world.API))
	x.quiet(t, n.base)
}
