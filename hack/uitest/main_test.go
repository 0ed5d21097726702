// SPDX-License-Identifier: Apache-2.0

package uitest

import (
	"os"
	"testing"

	"github.com/egressd/egressd/internal/testenv"
)

// egressd is the program under test, built once.
var egressd string

func TestMain(m *testing.M) {
	os.Exit(testenv.MainBuilt(m, func(dir string) (err error) {
		egressd, err = testenv.Build(dir, "egressd", "../../cmd/egressd")
		return err
	}))
}
