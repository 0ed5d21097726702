// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/testenv"
)

// TestReadme: what README.md shows of commands that need neither root nor a daemon is what
// they print. What exec prints, internal/e2e compares.
func TestReadme(t *testing.T) {
	t.Chdir("../..")
	page, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	compared := 0
	for _, block := range testenv.Blocks(string(page)) {
		command, shown, _ := strings.Cut(block.Text, "\n")
		args, ok := strings.CutPrefix(command, "$ bin/egressd ")
		if !ok {
			continue
		}
		compared++
		if o := call(t, strings.Fields(args)...); o.stdout+o.stderr != shown {
			t.Errorf("%s prints\n%s%s\nand the page shows\n%s", command, o.stdout, o.stderr, shown)
		}
	}
	if compared != 2 {
		t.Errorf("%d commands are compared; check and explain are there", compared)
	}
}
