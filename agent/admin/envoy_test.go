// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/internal/loglevel"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/policy"
)

// familiarView has a policy with one host.
func familiarView(t *testing.T) View {
	t.Helper()
	s, err := policy.Compile(&policy.Config{Services: []*policy.Service{{
		Ref: policy.Ref{Kind: "ServiceEntry", Namespace: "shop", Name: "a"}, External: true, Hosts: []hostname.Pattern{"a.example"}, Resolution: policy.ResolutionDNS,
		Ports: []policy.Port{{Number: 80, Name: "http", Protocol: policy.ProtocolHTTP}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	return View{
		Snapshot: func() *policy.Snapshot { return s },
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, "# HELP a b\n# TYPE a gauge\na{b=\"c d\"} 7\ninf +Inf\n")
		}),
		Server:    func() About { return About{Version: "v9", Started: time.Now().Add(-time.Hour), Ready: true} },
		Listeners: func() []ListenerAt { return []ListenerAt{{"proxy", "127.0.0.1:15001"}, {"proxy", "[::1]:15001"}} },
		Levels:    loglevel.New(slog.LevelInfo, "dns"),
	}
}

// TestFamiliar: what people know of Envoy's admin interface is there, and changes
// nothing where nothing may be changed.
func TestFamiliar(t *testing.T) {
	view := familiarView(t)
	read, change := view.Admin(false), view.Admin(true)
	withCerts := view
	withCerts.Certs = func() any { return []map[string]string{{"from": "Secret a/b"}} }
	starting := view
	starting.Server = func() About { return About{} }
	view.Profile = true
	profiled := view.Admin(false)
	for _, c := range []struct {
		h              http.Handler
		method, target string
		code           int
		want           string
	}{
		{read, "GET", "/clusters", 200, "outbound|80||a.example::resolution::DNS\n"},
		{read, "GET", "/listeners", 200, "proxy::127.0.0.1:15001\nproxy::[::1]:15001\n"},
		{read, "GET", "/listeners?format=json", 200, `"local_address": "[::1]:15001"`},
		{read, "GET", "/stats", 200, "a{b=\"c d\"}: 7\ninf: \"+Inf\"\n"},
		{read, "GET", "/stats?format=json", 200, `"value": 7`},
		{read, "GET", "/stats?format=prometheus", 200, "# TYPE a gauge\n"},
		{read, "GET", "/stats/prometheus", 200, "# TYPE a gauge\n"},
		{read, "GET", "/stats?format=html", 400, "usage: "},
		{read, "GET", "/stats?filter=(", 400, "missing closing )"},
		{read, "GET", "/ready", 200, "LIVE\n"},
		{starting.Admin(false), "GET", "/ready", 503, "INITIALIZING\n"},
		{read, "GET", "/help", 200, "  /stats: "},
		{read, "GET", "/", 200, "admin commands are:\n"},
		{read, "HEAD", "/clusters", 200, ""},
		{read, "DELETE", "/stats", 405, ""},
		{read, "POST", "/ready", 405, ""},
		{read, "GET", "/quitquitquit", 404, ""},
		{read, "GET", "/server_info", 200, `"state": "LIVE"`},
		{read, "GET", "/server_info", 200, `"version": "v9"`},
		{read, "GET", "/certs", 200, `"certificates": []`},
		{withCerts.Admin(false), "GET", "/certs", 200, `"from": "Secret a/b"`},
		{read, "GET", "/logging", 200, `"dns": "info"`},
		{read, "POST", "/logging?level=debug", 405, ""},
		{read, "GET", "/debug/pprof/", 404, ""},
		{profiled, "GET", "/debug/pprof/", 200, "goroutine"},
		{profiled, "GET", "/debug/pprof/cmdline", 404, ""},
		{change, "POST", "/logging?dns=loud", 400, "a level is"},
		{change, "POST", "/logging?nope=info", 400, "no scope"},
		{change, "POST", "/logging?dns=debug&level=warn", 200, `"dns": "debug"`},
		{read, "GET", "/logging", 200, `"default": "warn"`},
	} {
		w := httptest.NewRecorder()
		c.h.ServeHTTP(w, httptest.NewRequest(c.method, c.target, nil))
		if w.Code != c.code || !strings.Contains(w.Body.String(), c.want) {
			t.Errorf("%s %s: %d %s, want %d %q", c.method, c.target, w.Code, w.Body, c.code, c.want)
		}
	}
}

// TestHelpIsWhole: the list has the paths that are there, and no others.
func TestHelpIsWhole(t *testing.T) {
	view := familiarView(t)
	for _, change := range []bool{false, true} {
		h := view.Admin(change)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/help", nil))
		if changes := strings.Contains(w.Body.String(), "/unload"); changes != change {
			t.Errorf("changes listed: %t, want %t:\n%s", changes, change, w.Body)
		}
		for line := range strings.Lines(w.Body.String()) {
			path, _, ok := strings.Cut(strings.TrimSpace(line), ": ")
			if !ok {
				continue
			}
			// Nothing has the method of this name: what is there refuses it.
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest("NOTHING", path, nil))
			if w.Code != http.StatusMethodNotAllowed {
				t.Errorf("%s: %d", path, w.Code)
			}
		}
	}
}

// TestStatsThatAreAskedFor: by their names, or when they counted something; of a
// histogram all or nothing.
func TestStatsThatAreAskedFor(t *testing.T) {
	const page = `# HELP a_total A.
# TYPE a_total counter
a_total{x="1"} 0
a_total{x="2"} 3
# HELP h H.
# TYPE h histogram
h_bucket{x="1",le="1"} 0
h_bucket{x="1",le="+Inf"} 2
h_sum{x="1"} 9
h_count{x="1"} 2
h_bucket{x="2",le="+Inf"} 0
h_sum{x="2"} 0
h_count{x="2"} 0
# HELP z Z.
# TYPE z gauge
z 0
`
	metrics := NewPage(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		fmt.Fprint(w, page)
	}))
	for query, want := range map[string]string{
		"filter=%5Ea_":                      "a_total{x=\"1\"}: 0\na_total{x=\"2\"}: 3\n",
		"filter=total.*2&format=prometheus": "# HELP a_total A.\n# TYPE a_total counter\na_total{x=\"2\"} 3\n",
		"usedonly&format=prometheus": "# HELP a_total A.\n# TYPE a_total counter\na_total{x=\"2\"} 3\n# HELP h H.\n# TYPE h histogram\n" +
			"h_bucket{x=\"1\",le=\"1\"} 0\nh_bucket{x=\"1\",le=\"+Inf\"} 2\nh_sum{x=\"1\"} 9\nh_count{x=\"1\"} 2\n",
		"usedonly&filter=z":       "",
		"format=prometheus":       page,
		"filter=z&format=json":    "{\n  \"stats\": [\n    {\n      \"name\": \"z\",\n      \"value\": 0\n    }\n  ]\n}\n",
		"filter=nope&format=json": "{\n  \"stats\": []\n}\n",
	} {
		w := httptest.NewRecorder()
		serveStats(w, httptest.NewRequest("GET", "/stats?"+query, nil), metrics)
		if w.Body.String() != want {
			t.Errorf("%s:\n%s\nwant\n%s", query, w.Body, want)
		}
		if strings.Contains(query, "prometheus") && w.Header().Get("Content-Type") != "text/plain; version=0.0.4" {
			t.Errorf("%s: %s", query, w.Header())
		}
	}
}

// TestOnlyOwners: by TCP root and the admin group may read; another user may not, and
// neither may who nobody can tell of.
func TestOnlyOwners(t *testing.T) {
	testenv.RequireRoot(t)
	testenv.RequireTool(t, "setpriv")
	testenv.RequireTool(t, "curl")
	for _, at := range []string{"127.0.0.1:0", "[::1]:0"} {
		ln, err := net.Listen("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		const daemons = 1 // the group of the user daemon
		served := make(chan error, 1)
		go func() {
			served <- HTTP(t.Context(), ln, loopbackOnly(onlyOwners(daemons, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "policy") }))))
		}()
		for who, want := range map[string]string{"0": "200", "65534": "403", "1": "200"} {
			cmd := exec.Command("setpriv", "--reuid", who, "--clear-groups", "curl", "-q", "-sS", "--noproxy", "*", "-o", "/dev/null", "-w", "%{http_code}", "http://"+ln.Addr().String())
			if out, err := cmd.CombinedOutput(); err != nil || string(out) != want {
				t.Errorf("%s, user %s: %s, %v, want %s", at, who, out, err, want)
			}
		}
		ln.Close()
		<-served
	}
	r := httptest.NewRequest("GET", "/", nil)
	w := httptest.NewRecorder()
	onlyOwners(0, http.NotFoundHandler()).ServeHTTP(w, r)
	if w.Code != http.StatusForbidden {
		t.Errorf("a request from nowhere: %d", w.Code)
	}
	if _, err := netip.ParseAddrPort(r.RemoteAddr); err != nil {
		t.Error("the request has no address to look for")
	}
}
