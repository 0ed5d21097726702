// SPDX-License-Identifier: Apache-2.0

package attack

import (
	"flag"
	"fmt"
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
	dir, err := os.MkdirTemp("", "egressd-attack-")
	if err == nil {
		egressd, err = testenv.Build(dir, "egressd", "../../cmd/egressd")
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
