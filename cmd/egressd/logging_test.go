// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestLogFormat: auto is text, or the journal's lines where that reads.
func TestLogFormat(t *testing.T) {
	const stamp = "time=20" // of this century
	for _, tt := range []struct {
		format  string
		journal bool
		begins  string
	}{
		{"auto", false, stamp},
		{"auto", true, `<4>msg="look here" at=dns`},
		{"text", false, stamp},
		{"text", true, stamp},
		{"json", false, `{"time":"20`},
		{"json", true, `{"time":"20`},
	} {
		var out bytes.Buffer
		f := policyFlags{logFormat: tt.format, journal: tt.journal}
		h, err := f.handler(&out, slog.LevelInfo)
		if err != nil {
			t.Fatal(err)
		}
		slog.New(h).Warn("look here", "at", "dns")
		if got := out.String(); !strings.HasPrefix(got, tt.begins) {
			t.Errorf("%s, journal %v: %q does not begin with %q", tt.format, tt.journal, got, tt.begins)
		}
	}
}

// TestJournal: the process finds out by itself who reads its standard error, as
// systemd.exec(5) says. What it says at its end has a priority then.
func TestJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dial, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer dial.Close()
	read, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	stderr, err := dial.File()
	if err != nil {
		t.Fatal(err)
	}
	defer stderr.Close()
	at, err := stderr.Stat()
	if err != nil {
		t.Fatal(err)
	}
	st := at.Sys().(*syscall.Stat_t)
	for _, tt := range []struct{ stream, want string }{
		{fmt.Sprintf("%d:%d", st.Dev, st.Ino), "<3>egressd: "},
		{fmt.Sprintf("%d:%d", st.Dev, st.Ino+1), "egressd: "}, // somebody else's
		{"", "egressd: "},
	} {
		cmd := exec.Command(os.Args[0], "run", "--on-failure", "never", "--allow-empty-policy")
		cmd.Env = append(os.Environ(), asEgressd+"=1", "JOURNAL_STREAM="+tt.stream)
		cmd.Stderr = stderr
		if err := cmd.Run(); err == nil {
			t.Fatal("it takes everything")
		}
		b := make([]byte, 4<<10)
		n, err := read.Read(b)
		if got := string(b[:n]); err != nil || !strings.HasPrefix(got, tt.want) {
			t.Errorf("JOURNAL_STREAM=%q: %q, %v; want %q", tt.stream, got, err, tt.want)
		}
	}
}
