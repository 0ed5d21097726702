// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

func TestLoopbackHost(t *testing.T) {
	for host, want := range map[string]bool{
		"localhost": true, "localhost:15000": true, "LOCALHOST:1": true, "127.0.0.1:15000": true, "127.0.0.1": true,
		"127.8.9.1:1": true, "[::1]:15000": true, "[::1]": true, "::1": true,
		"": false, "rebind.attacker.test:15000": false, "rebind.attacker.test": false, "localhost.attacker.test": false,
		"192.0.2.1:15000": false, "0.0.0.0:15000": false, "[::]:1": false, "[2001:db8::1]:1": false,
		"127.0.0.1.attacker.test": false, "[::1%25lo]:1": false, "localhost.": false, "127.1:15000": false, "2130706433": false,
	} {
		if got := isLoopbackHost(host); got != want {
			t.Errorf("%q: %t", host, got)
		}
	}
}

func TestInterfaceAddrs(t *testing.T) {
	for in, want := range map[string]string{
		"localhost:15020": "127.0.0.1:15020 [::1]:15020", ":15020": ":15020", "192.0.2.1:1": "192.0.2.1:1",
		"[2001:db8::1]:1": "[2001:db8::1]:1", "0.0.0.0:1": "0.0.0.0:1",
		"": "", "15020": "", "node.example:1": "", "127.0.0.1": "", "127.0.0.1:http": "", "127.0.0.1:70000": "", "[::1]": "",
	} {
		got, err := Addresses(in)
		joined := strings.Join(got, " ")
		if joined != want && !(in == "localhost:15020" && joined == "127.0.0.1:15020") || (err == nil) != (want != "") {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
}

// TestPage: what is asked for often is made once a second, without what the
// one who asks would like.
func TestPage(t *testing.T) {
	made := 0
	now := time.Unix(0, 0)
	p := &Page{now: func() time.Time { return now }, handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		made++
		w.Header().Set("Content-Type", "text/x")
		fmt.Fprint(w, made, r.Header.Get("Accept"))
	})}
	get := func(want string) {
		t.Helper()
		w := httptest.NewRecorder()
		r := httptest.NewRequest("GET", "/metrics", nil)
		r.Header.Set("Accept", "application/openmetrics-text")
		p.ServeHTTP(w, r)
		if w.Body.String() != want || w.Code != 200 || w.Header().Get("Content-Type") != "text/x" {
			t.Errorf("%d %q, want %q", w.Code, w.Body, want)
		}
	}
	for range 100 {
		get("1")
	}
	now = now.Add(fresh)
	get("2")
	calls := 0
	var r Recently[int]
	for i := range 10 {
		if got := r.Get(now.Add(time.Duration(i)*fresh/5), func() int { calls++; return calls }); got != i/5+1 {
			t.Errorf("%d: %d", i, got)
		}
	}
}

// TestNotOurselves: the admin socket is not for what a policy sends there.
func TestNotOurselves(t *testing.T) {
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() {
		_, err := peers{ln, os.Getpid()}.Accept()
		served <- err
	}()
	c, err := net.Dial("unix", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if n, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("%d, %v; want the end", n, err)
	}
	ln.Close()
	if err := <-served; err == nil {
		t.Error("it was served")
	}
}

// TestAdminRefusesItself: what egressd itself connects is closed unheard.
func TestAdminRefusesItself(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	asked := false
	go func() {
		served <- HTTP(t.Context(), peers{ln, os.Getpid()}, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	}()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = c.Write([]byte("POST /unload HTTP/1.1\r\nHost: x\r\n\r\n")) // it may be closed by now
	if n, err := c.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Error("an answer")
	}
	testenv.RequireTool(t, "curl")
	if out, err := exec.Command("curl", "-sS", "--unix-socket", path, "http://x/").CombinedOutput(); err != nil {
		t.Errorf("another process: %v %s", err, out)
	}
	ln.Close()
	<-served
	if !asked {
		t.Error("another process was not heard")
	}
}
