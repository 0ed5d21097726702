// SPDX-License-Identifier: Apache-2.0

package uitest

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
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

// more is beside the example: a host at which nobody answers.
const more = `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: down}
spec:
  hosts: [down.example]
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 9999}]
  endpoints: [{address: ` + world.DBV4 + `}]
`

// hostileLabels are names that a workload asks for, by their labels.
var hostileLabels = [][]string{
	{"<script>alert(1)</script>", "example"}, {`"><img src=x onerror=alert(1)>`, "example"}, {"a\x1b[31mb", "\xe2\x80\xaegnp", "example"}, {"xn--mnchen-3ya", "example"},
	{strings.Repeat("a", 63), strings.Repeat("b", 63), strings.Repeat("c", 63), strings.Repeat("d", 61)},
}

// questions sends datagrams from within what is captured, none of which is allowed: one to a
// stranger, and a question for each hostile name.
func (n *node) questions(t *testing.T) {
	t.Helper()
	datagrams := [][2]string{{world.StrangerV4 + " 123", "what time is it"}}
	for _, labels := range hostileLabels {
		q := "\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" // RFC 1035, section 4.1.1: one question
		for _, l := range labels {
			q += string([]byte{byte(len(l))}) + l
		}
		datagrams = append(datagrams, [2]string{world.ResolverV4 + " 53", q + "\x00\x00\x01\x00\x01"})
	}
	args := []string{"-c", `
import binascii, socket, sys
for where, text in zip(sys.argv[1::2], sys.argv[2::2]):
    address, port = where.split()
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(20)
    try:
        s.sendto(binascii.unhexlify(text), (address, int(port)))
        print(s.recv(4096)[3] & 15)
    except PermissionError:
        print("refused")
`}
	for _, d := range datagrams {
		args = append(args, d[0], hex.EncodeToString([]byte(d[1])))
	}
	out, err := n.Client(t.Context(), n.in, "python3", args...).CombinedOutput()
	if want := "refused\n" + strings.Repeat("3\n", len(hostileLabels)); err != nil || string(out) != want {
		t.Fatalf("%v: %q, want %q", err, out, want)
	}
}

// explainedAs checks that the details that are open say what "egressd explain" does.
func (n *node) explainedAs(t *testing.T, x *tab, target string) {
	t.Helper()
	out, err := n.d.Command(t.Context(), "explain", "--state-dir", n.d.StateDir(), "-o", "json", target).Output()
	var told struct{ Steps []string }
	if jsonErr := json.Unmarshal(out, &told); jsonErr != nil || len(told.Steps) == 0 {
		t.Fatalf("%v, %v: %s", err, jsonErr, out) // a denial ends it with 1
	}
	want := strings.Join(told.Steps, "\n")
	shown := x.text(t, `[...document.querySelectorAll('#details ol.steps li')].map(li => li.querySelector('b') ? li.querySelector('b').textContent + ':' + li.textContent.slice(li.querySelector('b').textContent.length) : li.textContent).join('\n')`)
	if shown != want {
		t.Errorf("the page explains %s:\n%s\nand \"egressd explain\":\n%s", target, shown, want)
	}
}

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
	if n.d, err = n.NewDaemon(egressd, map[string][]byte{"policy.yaml": policy, "more.yaml": []byte(more)}, "--admin-address", "localhost:15000", "--volatile-pins"); err != nil {
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
		{"failed", "http://down.example/", "503"},
	} {
		if got := n.curl(t, c.name, c.url); got != c.want {
			t.Fatalf("%s %s: %s", c.name, c.url, got)
		}
	}
	n.questions(t)
	x := open(t, n.base+"/ui/")
	edge := func(outcome, who, host string) string {
		return `[...document.querySelectorAll('#map .edge.` + outcome + ` title')].some(t => t.textContent.startsWith('` + who + ` → ` + host + `'))`
	}
	x.is(t, "the proxied flow", edge("proxied", "proxied", world.GoogleAPIs))
	x.is(t, "the allowed flow", edge("allowed", "allowed", world.GoogleAPIs))
	x.is(t, "the denied name", edge("denied", "stopped", world.API))
	x.is(t, "the hostile program", edge("denied", "<img src=x>", world.StrangerV4))
	x.is(t, "the host that is down", edge("failed", "failed", "down.example"))
	x.is(t, "the datagram", edge("denied", "python3", world.StrangerV4))
	// Names are written as zone files have them (RFC 1035, section 5.1).
	for _, shown := range []string{`<script>alert\(1\)</script>.example`, `"><img\ src=x\ onerror=alert\(1\)>.example`, "xn--mnchen-3ya.example", strings.Repeat("a", 63) + "." + strings.Repeat("b", 63)} {
		x.is(t, "the question for "+shown, fmt.Sprintf(`[...document.querySelectorAll('#table tr.denied')].some(r => r.textContent.includes(%q))`, shown))
	}
	x.is(t, "the state", `document.querySelector('#state').textContent === 'ready'`)
	x.look(t, "daemon", "dark")
	x.look(t, "daemon", "light")

	x.do(t, browser.SetPermission(&browser.PermissionDescriptor{Name: "clipboard-read"}, browser.PermissionSettingGranted),
		browser.SetPermission(&browser.PermissionDescriptor{Name: "clipboard-write"}, browser.PermissionSettingGranted),
		chromedp.Evaluate(`[...document.querySelectorAll('tr.denied')].find(r => r.textContent.includes('stopped')).querySelector('button').click()`, nil),
		chromedp.WaitVisible("#copy", chromedp.ByQuery))
	n.explainedAs(t, x, world.API+":443")
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
	n.explainedAs(t, x, world.GoogleAPIs+":81")
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
