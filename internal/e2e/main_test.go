// SPDX-License-Identifier: Apache-2.0

package e2e

import (
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
	os.Exit(testenv.MainBuilt(m, func(dir string) (err error) {
		if egressd, err = testenv.Build(dir, "egressd", "../../cmd/egressd"); err != nil {
			return err
		}
		probe, err = testenv.Build(dir, "probe", "./testdata/probe")
		return err
	}))
}
