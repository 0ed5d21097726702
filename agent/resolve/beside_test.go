// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"bytes"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestWarnBesideDNS: one line says which ways around DNS there are, and what to
// do about each.
func TestWarnBesideDNS(t *testing.T) {
	root, err := os.MkdirTemp("", "egressd-") // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	warned := func() string {
		var log bytes.Buffer
		WarnBeside(slog.New(slog.NewTextHandler(&log, nil)), Beside(root))
		return log.String()
	}
	make := func(path string) {
		t.Helper()
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		ln, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ln.Close() })
	}
	if got := warned(); got != "" {
		t.Errorf("nothing is there: %s", got)
	}
	if err := os.MkdirAll(filepath.Join(root, "run/avahi-daemon/socket"), 0o755); err != nil {
		t.Fatal(err)
	}
	make("run/dbus/system_bus_socket")
	if got := warned(); got != "" {
		t.Errorf("a directory and the bus: %s", got)
	}
	make("run/nscd/socket")
	make("run/systemd/resolve/io.systemd.Resolve")
	got := warned()
	for _, want := range []string{"/run/nscd/socket", "nscd.conf", "io.systemd.Resolve", "nsswitch.conf"} {
		if !strings.Contains(got, want) {
			t.Errorf("%s is not in it: %s", want, got)
		}
	}
	if strings.Count(got, "\n") != 1 || strings.Contains(got, "avahi") {
		t.Errorf("%s", got)
	}
}
