// SPDX-License-Identifier: Apache-2.0

package otlptest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/egressd/egressd/internal/testenv"
)

// egressd is the program under test, built once.
var egressd string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "egressd-otlptest-")
	if err == nil {
		egressd = filepath.Join(dir, "egressd")
		build := exec.Command("go", "build", "-C", "../..", "-o", egressd, "./cmd/egressd")
		build.Stdout, build.Stderr = os.Stderr, os.Stderr
		err = build.Run()
	}
	code := 1
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else {
		code = testenv.Main(m)
	}
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}
