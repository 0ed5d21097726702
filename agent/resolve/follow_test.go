// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/dnsproxy"
	"github.com/egressd/egressd/internal/testenv"
)

func noLoops(netip.AddrPort) bool { return false }

// followed runs a nodeDNS over files, and gives what it applies.
func followed(t *testing.T, o Options, files ...string) (*Follower, chan dnsproxy.Upstreams, *testenv.Buffer) {
	t.Helper()
	log := new(testenv.Buffer)
	o.Files, o.Loops = files, noLoops
	o.Log = slog.New(slog.NewTextHandler(log, nil))
	n, err := Follow(o)
	if err != nil {
		t.Fatal(err)
	}
	applied := make(chan dnsproxy.Upstreams, 16)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); n.Run(ctx, func(u dnsproxy.Upstreams) { applied <- u }) }()
	t.Cleanup(func() { cancel(); <-done })
	return n, applied, log
}

func next(t *testing.T, applied chan dnsproxy.Upstreams) dnsproxy.Upstreams {
	t.Helper()
	select {
	case u := <-applied:
		return u
	case <-time.After(10 * time.Second):
		t.Fatal("a change was not seen")
		return dnsproxy.Upstreams{}
	}
}

func putConf(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestResolvConfIsFollowed: however the file is changed, its servers, suffixes
// and times count from then on.
func TestResolvConfIsFollowed(t *testing.T) {
	dir, run := t.TempDir(), t.TempDir()
	conf, stub := filepath.Join(dir, "resolv.conf"), filepath.Join(run, "stub.conf")
	putConf(t, stub, "nameserver 192.0.2.1\n")
	if err := os.Symlink(stub, conf); err != nil {
		t.Fatal(err)
	}
	n, applied, log := followed(t, Options{}, conf, filepath.Join(run, "none.conf"))
	if got := serverList(n.Current().Servers); got != "192.0.2.1:53" {
		t.Fatalf("at first: %s", got)
	}
	replace := func(path, text string) {
		putConf(t, path+".new", text)
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range []struct {
		how, want string
		do        func()
	}{
		{"the link's target is replaced", "192.0.2.2:53", func() { replace(stub, "nameserver 192.0.2.2\n") }},
		{"it is written in place", "192.0.2.3:53, [2001:db8::3]:53", func() { putConf(t, stub, "nameserver 192.0.2.3\nnameserver 2001:db8::3\n") }},
		{"the link is replaced by a file", "192.0.2.4:53", func() { replace(conf, "nameserver 192.0.2.4\n") }},
		{"the file is replaced", "192.0.2.5:53", func() {
			replace(conf, "nameserver 192.0.2.5\nsearch corp.test\noptions ndots:5 timeout:3 attempts:4\n")
		}},
	} {
		s.do()
		if got := serverList(next(t, applied).Servers); got != s.want {
			t.Errorf("%s: %s, want %s", s.how, got, s.want)
		}
	}
	if u := n.Current(); !slices.Equal(u.Search, []string{"corp.test"}) || u.Timeout != 3*time.Second || u.Attempts != 4 {
		t.Errorf("suffixes and options: %+v", u)
	}
	kept := func(what string) {
		t.Helper()
		n.Read(func(u dnsproxy.Upstreams) { t.Errorf("%s: %+v", what, u) })
		if got := serverList(n.Current().Servers); got != "192.0.2.5:53" {
			t.Errorf("%s: %s is asked", what, got)
		}
	}
	replace(conf, "")
	kept("an empty file")
	replace(conf, "nameserver nonsense\n")
	kept("a broken one")
	if err := os.Remove(conf); err != nil {
		t.Fatal(err)
	}
	kept("no file")
	replace(conf, "nameserver 192.0.2.6\n")
	if got := serverList(next(t, applied).Servers); got != "192.0.2.6:53" {
		t.Errorf("when it is mended: %s", got)
	}
	if len(applied) != 0 || strings.Count(log.String(), "level=WARN") != 1 {
		t.Errorf("%d changes more; log:\n%s", len(applied), log)
	}
}

// TestResolvConfOnDemand: a reload reads it, and what is the same is not applied.
func TestResolvConfOnDemand(t *testing.T) {
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	putConf(t, conf, "nameserver 192.0.2.1\n")
	n, err := Follow(Options{Log: slog.New(slog.DiscardHandler), Files: []string{conf}, Loops: noLoops})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Stop()
	var applied []string
	apply := func(u dnsproxy.Upstreams) { applied = append(applied, serverList(u.Servers)) }
	n.Read(apply)
	putConf(t, conf, "nameserver 192.0.2.2\n")
	n.Read(apply)
	n.Read(apply)
	if !slices.Equal(applied, []string{"192.0.2.2:53"}) {
		t.Errorf("applied %v", applied)
	}
}

// TestGivenServersStay: what the command line says comes before the file.
func TestGivenServersStay(t *testing.T) {
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	putConf(t, conf, "nameserver 192.0.2.1\noptions timeout:7 attempts:3\n")
	given := Options{Given: dnsproxy.Upstreams{Servers: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.99:53")}, Timeout: time.Second}}
	n, applied, _ := followed(t, given, conf)
	check := func(u dnsproxy.Upstreams, attempts int, search ...string) {
		t.Helper()
		if serverList(u.Servers) != "192.0.2.99:53" || u.Timeout != time.Second || u.Attempts != attempts || !slices.Equal(u.Search, search) {
			t.Errorf("%+v", u)
		}
	}
	check(n.Current(), 3)
	putConf(t, conf, "nameserver 192.0.2.2\nsearch corp.test\noptions timeout:7 attempts:5\n")
	check(next(t, applied), 5, "corp.test")
	putConf(t, conf, "search other.test\n") // no server: none is needed
	check(next(t, applied), 0, "other.test")
}

// TestOwnListenerIsNoServer: egressd does not ask itself, whoever says so.
func TestOwnListenerIsNoServer(t *testing.T) {
	loops := func(s netip.AddrPort) bool { return s.Addr().IsLoopback() }
	log := slog.New(slog.DiscardHandler)
	given := Options{Log: log, Loops: loops, Given: dnsproxy.Upstreams{Servers: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:15053")}}}
	if _, err := Follow(given); err == nil || !strings.Contains(err.Error(), "127.0.0.1:15053") {
		t.Errorf("at the start: %v", err)
	}
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	putConf(t, conf, "nameserver 127.0.0.1\n")
	if _, err := Follow(Options{Log: log, Files: []string{conf}, Loops: loops}); err == nil || !strings.Contains(err.Error(), "no DNS server") {
		t.Errorf("the only one: %v", err)
	}
	putConf(t, conf, "nameserver 127.0.0.1\nnameserver 192.0.2.1\n")
	n, err := Follow(Options{Log: log, Files: []string{conf}, Loops: loops})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Stop()
	if got := serverList(n.Current().Servers); got != "192.0.2.1:53" {
		t.Errorf("one of two: %s", got)
	}
}

// TestDegradedDNS: that servers are down is said, and that they are not is not.
func TestDegradedDNS(t *testing.T) {
	for _, tt := range []struct {
		states []string
		want   string
	}{
		{nil, ""}, {[]string{"up", "unknown"}, ""}, {[]string{"down", "up"}, "1 of 2"}, {[]string{"down"}, "no DNS server answers"},
	} {
		var all []dnsproxy.UpstreamStatus
		for _, s := range tt.states {
			all = append(all, dnsproxy.UpstreamStatus{Server: "192.0.2.1:53", State: s})
		}
		if got := Degraded(all); !strings.HasPrefix(got, tt.want) || (got == "") != (tt.want == "") {
			t.Errorf("%v: %q", tt.states, got)
		}
	}
}

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }
