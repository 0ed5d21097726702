// SPDX-License-Identifier: Apache-2.0

package attack

import (
	"flag"
	"os"
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
	os.Exit(testenv.MainBuilt(m, func(dir string) (err error) {
		egressd, err = testenv.Build(dir, "egressd", "../../cmd/egressd")
		return err
	}))
}
