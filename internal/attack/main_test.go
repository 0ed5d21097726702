// SPDX-License-Identifier: Apache-2.0

package attack

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/egressd/egressd/internal/testenv"
)

var (
	printTable = flag.Bool("table", false, "print what each attack came to")
	writeDocs  = flag.Bool("write", false, "write docs/ATTACKS.md instead of comparing it")
)

// egressd is the binary under attack, built once.
var egressd string

func TestMain(m *testing.M) {
	flag.Parse()
	if os.Geteuid() != 0 {
		os.Exit(m.Run()) // what needs root skips
	}
	dir, err := os.MkdirTemp("", "egressd-attack-")
	if err == nil {
		egressd, err = build(dir)
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
// EGRESSD_E2E_BIN is a directory with one.
func build(dir string) (string, error) {
	if made := os.Getenv("EGRESSD_E2E_BIN"); made != "" {
		return filepath.Join(made, "egressd"), nil
	}
	path := filepath.Join(dir, "egressd")
	c := exec.Command("go", "build", "-o", path, "../../cmd/egressd")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building egressd: %w\n%s", err, out)
	}
	return path, nil
}
