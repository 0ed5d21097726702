// SPDX-License-Identifier: Apache-2.0

package world_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

func ctx(t *testing.T) context.Context {
	c, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return c
}

func ask(t *testing.T, w *world.World, network, server, name string, typ uint16) *dns.Msg {
	t.Helper()
	conn, err := w.Node.Dial(ctx(t), network, netip.AddrPortFrom(netip.MustParseAddr(server), 53))
	if err != nil {
		t.Fatal(err)
	}
	c := &dns.Conn{Conn: conn}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if err := c.WriteMsg(new(dns.Msg).SetQuestion(dns.Fqdn(name), typ)); err != nil {
		t.Fatal(err)
	}
	m, err := c.ReadMsg()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestDNS(t *testing.T) {
	w := testenv.World(t)
	w.DNS.SetCNAME("alias.example.com", time.Minute, "Hop.example.com")
	w.DNS.SetCNAME("hop.example.com", time.Minute, world.API)
	w.DNS.SetCNAME("loop.example.com", time.Minute, "loop.example.com")
	w.DNS.Fail("broken.example.com", dns.RcodeServerFailure)
	if err := w.DNS.Set("www.googleapis.com. 30 IN HTTPS 1 . alpn=h2"); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name    string
		typ     uint16
		rcode   int
		answers int
		last    string
	}{
		{"WWW.googleapis.com", dns.TypeA, dns.RcodeSuccess, 1, "142.250.74.10"},
		{"www.googleapis.com", dns.TypeAAAA, dns.RcodeSuccess, 1, "2a00:1450:4001:80b::200a"},
		{"www.googleapis.com", dns.TypeHTTPS, dns.RcodeSuccess, 1, `1 . alpn="h2"`},
		{"www.googleapis.com", dns.TypeTXT, dns.RcodeSuccess, 0, ""},
		{"alias.example.com", dns.TypeA, dns.RcodeSuccess, 3, "93.184.215.14"},
		{"loop.example.com", dns.TypeA, dns.RcodeSuccess, 16, "loop.example.com."},
		{"broken.example.com", dns.TypeA, dns.RcodeServerFailure, 0, ""},
		{"nowhere.example.com", dns.TypeA, dns.RcodeNameError, 0, ""},
	}
	for _, tt := range tests {
		for _, network := range []string{"udp", "tcp"} {
			for _, server := range []string{world.ResolverV4, world.ResolverV6, world.OtherResolverV4, world.OtherResolverV6} {
				before := w.DNS.Asked(tt.name)
				m := ask(t, w, network, server, tt.name, tt.typ)
				last := ""
				if n := len(m.Answer); n > 0 {
					last = strings.TrimPrefix(m.Answer[n-1].String(), m.Answer[n-1].Header().String())
				}
				if m.Rcode != tt.rcode || len(m.Answer) != tt.answers || last != tt.last {
					t.Errorf("%s %s at %s over %s: %s, %d answers, last %q; want %s, %d, %q", tt.name, dns.TypeToString[tt.typ], server, network,
						dns.RcodeToString[m.Rcode], len(m.Answer), last, dns.RcodeToString[tt.rcode], tt.answers, tt.last)
				}
				if got := w.DNS.Asked(tt.name) - before; got != 1 {
					t.Errorf("%s: %d questions counted, want 1", tt.name, got)
				}
				q := w.DNS.Queries()
				if last := q[len(q)-1]; last.Net != network || last.Server.Addr().String() != server || !strings.EqualFold(last.Name, tt.name) {
					t.Errorf("logged %+v, want %s at %s over %s", last, tt.name, server, network)
				}
			}
		}
	}
	if n := w.DNS.Asked("never.example.com"); n != 0 {
		t.Errorf("a name that nobody asked for was counted %d times", n)
	}
}

// TestReadyAtOnce guards against duplicate address detection, which makes
// IPv6 stall for the first second.
// TestAsk: the answer's code and its addresses come back, and no answer is an
// error.
func TestAsk(t *testing.T) {
	w := testenv.World(t)
	for _, network := range []string{"udp", "tcp"} {
		for _, server := range []string{world.ResolverV4, world.ResolverV6} {
			at := net.JoinHostPort(server, "53")
			for _, c := range []struct{ name, qtype, want string }{
				{world.API, "A", "NOERROR [" + w.API.V4.String() + "]"},
				{world.API, "AAAA", "NOERROR [" + w.API.V6.String() + "]"},
				{"nowhere.example.com", "A", "NXDOMAIN []"},
			} {
				err := w.Node.Do(func() error {
					rcode, addrs, err := world.Ask(ctx(t), network, at, c.name, c.qtype)
					if got := fmt.Sprint(rcode, " ", addrs); got != c.want {
						t.Errorf("%s %s at %s over %s: %s, want %s", c.name, c.qtype, at, network, got, c.want)
					}
					return err
				})
				if err != nil {
					t.Errorf("%s %s at %s over %s: %v", c.name, c.qtype, at, network, err)
				}
			}
		}
	}
	if _, _, err := world.Ask(ctx(t), "udp", "127.0.0.1:1", world.API, "A"); err == nil {
		t.Error("nobody answered, and it is no error")
	}
	if _, _, err := world.Ask(ctx(t), "udp", "127.0.0.1:1", world.API, "B"); err == nil {
		t.Error("there are records of type B")
	}
}

func TestReadyAtOnce(t *testing.T) {
	w := testenv.World(t)
	for _, s := range []*world.Server{w.Echo, w.Echo6} {
		begin := time.Now()
		c, err := w.Node.Dial(ctx(t), "tcp", s.Addr)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		if took := time.Since(begin); took > 150*time.Millisecond {
			t.Errorf("the first connection to %s took %v", s.Addr, took)
		}
	}
}

func TestWebByName(t *testing.T) {
	testenv.RequireTool(t, "curl")
	w := testenv.World(t)
	cg := testenv.Cgroup(t)
	tests := []struct{ family, url, sni string }{
		{"-4", "http://www.googleapis.com/x?y=1", ""},
		{"-6", "http://www.googleapis.com/x?y=1", ""},
		{"-4", "https://api.example.com/x?y=1", "api.example.com"},
		{"-6", "https://api.example.com/x?y=1", "api.example.com"},
	}
	for _, tt := range tests {
		out, err := w.Client(ctx(t), cg, "curl", "-sS", "--noproxy", "*", "--cacert", w.CAFile(), tt.family, tt.url).Output()
		if err != nil {
			t.Errorf("%s %s: %v %s", tt.family, tt.url, err, stderr(err))
			continue
		}
		var e world.Echo
		if err := json.Unmarshal(out, &e); err != nil {
			t.Errorf("%s: %v in %q", tt.url, err, out)
		}
		want := map[string]string{"-4": world.NodeV4, "-6": world.NodeV6}[tt.family]
		remote, _ := netip.ParseAddrPort(e.Remote)
		if e.Path != "/x" || e.Query != "y=1" || e.SNI != tt.sni || remote.Addr().String() != want {
			t.Errorf("%s %s: got %+v, want SNI %q from %s", tt.family, tt.url, e, tt.sni, want)
		}
	}
	if got := w.GoogleAPIs.Hits() + w.API.Hits(); got != len(tests) {
		t.Errorf("%d requests counted, want %d", got, len(tests))
	}
}

func stderr(err error) string {
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return string(exit.Stderr)
	}
	return ""
}

func TestOriginPaths(t *testing.T) {
	testenv.RequireTool(t, "curl")
	w := testenv.World(t)
	tests := []struct{ path, want string }{
		{"/status/418", "418 0"},
		{"/status/abc", "400 0"},
		{"/bytes/100000", "200 100000"},
		{"/sse?n=2&d=1ms", "200 18"},
		{"/flaky?key=a&n=1", "503 0"},
		{"/drop", "000 0"},
	}
	for _, tt := range tests {
		// An aborted answer makes curl exit with a code; its report is what counts.
		out, _ := w.Client(ctx(t), nil, "curl", "-s", "--noproxy", "*", "-o", os.DevNull, "-w", "%{http_code} %{size_download}", "http://"+world.API+tt.path).Output()
		if string(out) != tt.want {
			t.Errorf("%s: %s, want %s", tt.path, out, tt.want)
		}
	}
}

func TestStrangerIsNotTrustedAndIsCounted(t *testing.T) {
	testenv.RequireTool(t, "curl")
	w := testenv.World(t)
	addr := netip.MustParseAddr(world.StrangerV4)
	if n := w.Packets(addr); n != 0 {
		t.Fatalf("%d packets to the stranger before anything was sent", n)
	}
	resolve := world.GoogleAPIs + ":443:" + world.StrangerV4
	_, err := w.Client(ctx(t), nil, "curl", "-s", "--noproxy", "*", "--cacert", w.CAFile(), "--resolve", resolve, "https://"+world.GoogleAPIs).Output()
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 60 {
		t.Errorf("got %v, want curl's exit code 60: certificate not trusted", err)
	}
	if w.Stranger.Conns() != 1 || w.Stranger.Hits() != 0 || w.Packets(addr) == 0 {
		t.Errorf("stranger counted %d connections, %d requests, %d packets; want 1, 0, some", w.Stranger.Conns(), w.Stranger.Hits(), w.Packets(addr))
	}
}

func TestEchoServers(t *testing.T) {
	w := testenv.World(t)
	for _, s := range []*world.Server{w.DB, w.DB6, w.Echo, w.Echo6, w.EchoUDP, w.EchoUDP6, w.StrangerUDP} {
		network, greeting := "tcp", ""
		if s.UDP {
			network = "udp"
		}
		if s == w.DB || s == w.DB6 {
			greeting = world.Greeting
		}
		t.Run(fmt.Sprint(network, " ", s.Addr), func(t *testing.T) {
			c, err := w.Node.Dial(ctx(t), network, s.Addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(10 * time.Second))
			buf := make([]byte, len(greeting))
			if _, err := io.ReadFull(c, buf); err != nil || string(buf) != greeting {
				t.Fatalf("greeting %q, %v; want %q", buf, err, greeting)
			}
			if _, err := io.WriteString(c, "hello"); err != nil {
				t.Fatal(err)
			}
			if tcp, ok := c.(*net.TCPConn); ok {
				_ = tcp.CloseWrite()
			}
			buf = make([]byte, 5)
			if _, err := io.ReadFull(c, buf); err != nil || string(buf) != "hello" {
				t.Errorf("echo %q, %v", buf, err)
			}
			if s.Hits() != 1 {
				t.Errorf("%d hits, want 1", s.Hits())
			}
		})
	}
}

func TestCommandStartsInCgroupAndNamespace(t *testing.T) {
	w := testenv.World(t)
	cg := testenv.Cgroup(t)
	out, err := w.Node.Command(ctx(t), cg, "sh", "-c", "cat /proc/self/cgroup; readlink /proc/self/ns/net").Output()
	if err != nil {
		t.Fatal(err, stderr(err))
	}
	if want := "0::/" + filepath.Base(cg.Path()) + "\n"; !strings.Contains(string(out), want) {
		t.Errorf("cgroup: %q lacks %q", out, want)
	}
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(out), own) {
		t.Errorf("the command ran in the test's own network namespace %s", own)
	}
}

func TestCgroupCloseKills(t *testing.T) {
	cg := testenv.Cgroup(t)
	child, err := cg.Child("inner")
	if err != nil {
		t.Fatal(err)
	}
	w := testenv.World(t)
	var out bytes.Buffer
	// A grandchild that outlives its parent, in a cgroup below.
	c := w.Node.Command(ctx(t), child, "sh", "-c", "trap '' TERM INT; setsid sleep 600 >/dev/null & echo up; wait")
	c.Stdout = &out
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if err := child.Close(); err != nil {
		t.Error(err)
	}
	if err := cg.Close(); err != nil {
		t.Error(err)
	}
	if err := c.Wait(); err == nil {
		t.Error("the command ended by itself; it was to be killed")
	}
	if _, err := os.Stat(cg.Path()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", cg.Path(), err)
	}
	if err := cg.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

func TestCgroupCPU(t *testing.T) {
	cg := testenv.Cgroup(t)
	w := testenv.World(t)
	before, err := cg.CPU()
	if err != nil || before != 0 {
		t.Fatalf("a new cgroup has used %v, %v", before, err)
	}
	if err := w.Node.Command(ctx(t), cg, "sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done").Run(); err != nil {
		t.Fatal(err)
	}
	if used, err := cg.CPU(); err != nil || used == 0 {
		t.Errorf("a busy process has used %v, %v", used, err)
	}
}

func TestAddNameListensNowhere(t *testing.T) {
	w := testenv.World(t)
	addr := netip.MustParseAddr("151.101.1.10")
	if err := w.AddName("quiet.example.com", addr, netip.Addr{}); err != nil {
		t.Fatal(err)
	}
	if m := ask(t, w, "udp", world.ResolverV4, "quiet.example.com", dns.TypeA); len(m.Answer) != 1 {
		t.Errorf("%d addresses, want 1", len(m.Answer))
	}
	_, err := w.Node.Dial(ctx(t), "tcp", netip.AddrPortFrom(addr, 80))
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dialling it: %v, want %v", err, syscall.ECONNREFUSED)
	}
}

func TestDoKeepsTheCallersNamespace(t *testing.T) {
	w := testenv.World(t)
	want := errors.New("from inside")
	before, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Net.Do(func() error { return want }); !errors.Is(err, want) {
		t.Errorf("Do returned %v, want %v", err, want)
	}
	var wrong []string
	for range 200 { // whatever threads the scheduler offers
		ch := make(chan string)
		go func() {
			ns, _ := os.Readlink("/proc/thread-self/ns/net")
			ch <- ns
		}()
		if ns := <-ch; ns != before {
			wrong = append(wrong, ns)
		}
	}
	if len(wrong) > 0 {
		t.Errorf("goroutines ran in other namespaces than %s: %v", before, wrong)
	}
}
