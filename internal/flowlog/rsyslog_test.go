// SPDX-License-Identifier: Apache-2.0

package flowlog

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/testenv"
)

// rsyslogConfig listens as rsyslog does on /dev/log unless somebody says otherwise, and
// writes all that it made of a message.
const rsyslogConfig = `global(workDirectory="DIR")
module(load="imuxsock" SysSock.Use="off")
input(type="imuxsock" Socket="DIR/log")
template(name="all" type="list") { property(name="jsonmesg") constant(value="\n") }
action(type="omfile" file="DIR/out" template="all")
`

// message is what rsyslog made of one.
type message struct {
	Text     string `json:"msg"`
	Facility string `json:"syslogfacility"`
	Severity string `json:"syslogseverity"`
	Program  string `json:"programname"`
	PID      string `json:"procid"`
}

// rsyslog starts rsyslogd. What it returns waits for a message that ends in a text, and is
// all messages until then.
func rsyslog(t *testing.T, dir string) func(end string) []message {
	t.Helper()
	testenv.RequireTool(t, "rsyslogd")
	config := filepath.Join(dir, "rsyslog.conf")
	if err := os.WriteFile(config, []byte(strings.ReplaceAll(rsyslogConfig, "DIR", dir)), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("rsyslogd", "-n", "-iNONE", "-f", config)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("rsyslogd ends with %v", err)
		}
	})
	testenv.Until(t, "rsyslogd listens", func() bool { _, err := os.Stat(filepath.Join(dir, "log")); return err == nil })
	return func(end string) (all []message) {
		testenv.Until(t, end, func() bool {
			all = nil
			text, _ := os.ReadFile(filepath.Join(dir, "out")) // it is there with the first message
			for line := range strings.Lines(string(text)) {
				var m message
				if json.Unmarshal([]byte(line), &m) == nil { // half of one is read again
					all = append(all, m)
				}
			}
			return len(all) > 0 && strings.HasSuffix(all[len(all)-1].Text, end)
		})
		return all
	}
}

// TestRsyslog: rsyslog has each line whole, as one message of the program, with its
// facility and severity, whatever names are in it; and one that is too long for it does
// not become two.
func TestRsyslog(t *testing.T) {
	dir := t.TempDir()
	read := rsyslog(t, dir)
	const forged = "x\n<0>Jan  1 00:00:00 kernel[1]: forged\r\n<8>1 - - root - - - forged\x00\x1b[2J\u2028forged\x7f %s"
	allowed, audited, hostile, long, last := denied("allowed"), denied("audited"), denied(forged), denied("long"), denied("last")
	allowed.Allowed = true
	audited.Allowed, audited.WouldDeny = true, true
	hostile.Process.Command, hostile.Workload, hostile.Path = forged, forged, forged
	long.Path = strings.Repeat("/<0>kernel: ", 2000)
	events := []flow.Event{denied("denied"), allowed, audited, hostile, long, last}

	l := open(t, io.Discard, Options{}, Syslog+":"+filepath.Join(dir, "log"))
	defer l.Close(patience)
	for _, e := range events {
		l.Record(&e)
	}
	got := read(strings.TrimSuffix(line(last), "\n"))
	if len(got) != len(events) {
		t.Fatalf("%d messages of %d lines: %+v", len(got), len(events), got)
	}
	for i, e := range events {
		m := got[i]
		if m.Program != identifier || m.PID != strconv.Itoa(os.Getpid()) || m.Facility != "3" || m.Severity != strconv.Itoa(severity(&e)) {
			t.Errorf("%s: %+v", e.Name, m)
		}
		want := " " + strings.TrimSuffix(line(e), "\n")
		if e.Name == "long" {
			if len(m.Text) >= len(want) {
				t.Error("rsyslog takes so long a message: this is no test")
			}
			want = want[:len(m.Text)]
		}
		if m.Text != want {
			t.Errorf("%q\nwant %q", m.Text, want)
		}
	}
}
