// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/world"
)

func TestMain(m *testing.M) { os.Exit(Main(m, os.Getenv("TESTENV_PINS"))) }

// TestHelperLeaks is no test: TestMainFindsLeaks runs it in a process of its own.
func TestHelperLeaks(t *testing.T) {
	switch os.Getenv("TESTENV_LEAK") {
	case "goroutine":
		go func() { select {} }()
	case "descriptor":
		// Not os.Open, whose files the garbage collector closes.
		if _, err := unix.Open(os.DevNull, unix.O_RDONLY, 0); err != nil {
			t.Fatal(err)
		}
	case "cgroup":
		if _, err := world.NewCgroup("leak"); err != nil {
			t.Fatal(err)
		}
	case "pin":
		if err := os.WriteFile(os.Getenv("TESTENV_PINS")+"/link", nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestMainFindsLeaks(t *testing.T) {
	tests := []struct{ leak, want string }{
		{"", ""},
		{"goroutine", "TestHelperLeaks"},
		{"descriptor", "/dev/null"},
		{"cgroup", "left over: "},
		{"pin", "pin "},
	}
	for _, tt := range tests {
		t.Run(tt.leak, func(t *testing.T) {
			t.Parallel()
			if tt.leak == "cgroup" {
				RequireCgroup2(t)
			}
			c := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestHelperLeaks$")
			c.Env = append(os.Environ(), "TESTENV_LEAK="+tt.leak, "TESTENV_PINS="+t.TempDir())
			var out bytes.Buffer
			c.Stdout, c.Stderr = &out, &out
			err := c.Run()
			if (err == nil) != (tt.want == "") || !strings.Contains(out.String(), tt.want) {
				t.Errorf("exit %v, output %q; want failure with %q", err, out.String(), tt.want)
			}
		})
	}
	t.Cleanup(func() {
		if err := world.Sweep(); err != nil { // the leaked cgroup
			t.Error(err)
		}
	})
}
