// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
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
		egressd, err = testenv.Build(dir, "egressd", "../../cmd/egressd")
	}
	if err == nil {
		probe, err = testenv.Build(dir, "probe", "./testdata/probe")
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
