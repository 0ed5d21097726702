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
