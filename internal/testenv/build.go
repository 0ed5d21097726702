// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Build makes a static binary, as releases are, of a package in dir, with more
// flags for go build, and returns its path. Where there is no Go, EGRESSD_E2E_BIN is a directory with
// the binaries that are needed.
func Build(dir, name, pkg string, flags ...string) (string, error) {
	if made := os.Getenv("EGRESSD_E2E_BIN"); made != "" {
		return filepath.Join(made, name), nil
	}
	path := filepath.Join(dir, name)
	c := exec.Command("go", append(append([]string{"build", "-o", path}, flags...), pkg)...)
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %w\n%s", pkg, err, out)
	}
	return path, nil
}
