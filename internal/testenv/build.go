// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Build makes a static binary, as releases are, in dir, an absolute path, of a
// package, by its import path or its folder ("./" or "../" first), with more flags for
// go build, and returns its path. Where there is no Go, EGRESSD_E2E_BIN is a directory with
// the binaries that are needed.
func Build(dir, name, pkg string, flags ...string) (string, error) {
	if made := os.Getenv("EGRESSD_E2E_BIN"); made != "" {
		return filepath.Join(made, name), nil
	}
	path := filepath.Join(dir, name)
	args := []string{"build"}
	if strings.HasPrefix(pkg, ".") { // from within: it may be in another module than the tests
		args = append(args, "-C", pkg)
		pkg = "."
	}
	c := exec.Command("go", append(append(append(args, "-o", path), flags...), pkg)...)
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %w\n%s", name, err, out)
	}
	return path, nil
}

// MainBuilt is Main for tests of programs, which build makes in a folder that goes with
// the tests.
func MainBuilt(m interface{ Run() int }, build func(dir string) error) int {
	dir, err := os.MkdirTemp("", "egressd-test-")
	if err == nil {
		// Workloads may run as another user.
		err = os.Chmod(dir, 0o755)
	}
	if err == nil {
		err = build(dir)
	}
	code := 1
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else {
		code = Main(m)
	}
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}
