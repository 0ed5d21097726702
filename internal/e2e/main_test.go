// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/egressd/egressd/internal/testenv"
)

// Paths of the programs under test, built once.
var (
	egressd string
	probe   string
)

func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		os.Exit(m.Run()) // every test skips
	}
	dir, err := os.MkdirTemp("", "egressd-e2e-")
	if err == nil {
		// Workloads may run as another user.
		err = os.Chmod(dir, 0o755)
	}
	if err == nil {
		egressd, err = build(dir, "egressd", "../../cmd/egressd")
	}
	if err == nil {
		probe, err = build(dir, "probe", "./testdata/probe")
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

// build makes a static binary, as releases are. Where there is no Go,
// EGRESSD_E2E_BIN is a directory with those that are needed.
func build(dir, name, pkg string) (string, error) {
	if made := os.Getenv("EGRESSD_E2E_BIN"); made != "" {
		return filepath.Join(made, name), nil
	}
	path := filepath.Join(dir, name)
	c := exec.Command("go", "build", "-o", path, pkg)
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %w\n%s", pkg, err, out)
	}
	return path, nil
}
