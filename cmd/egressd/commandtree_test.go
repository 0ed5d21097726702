// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

// TestCommandTree: the tree has every command that people see, with its flags, and says
// of itself nothing.
func TestCommandTree(t *testing.T) {
	got := call(t, "commands")
	if got.code != exitGood {
		t.Fatalf("%d: %s", got.code, got.stderr)
	}
	var tree commandNode
	if err := json.Unmarshal([]byte(got.stdout), &tree); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range tree.Commands {
		name, _, _ := strings.Cut(c.Use, " ")
		names = append(names, name)
		if c.Short == "" {
			t.Errorf("%s has no text", name)
		}
		if name == runName && !slices.ContainsFunc(c.Flags, func(f flagNode) bool {
			return f.Name == "log-format" && f.Type == "string" && f.Default == "auto" && f.Usage != ""
		}) {
			t.Errorf("run has the flags %v", c.Flags)
		}
	}
	for _, c := range root(env{}).Commands() {
		if seen := slices.Contains(names, c.Name()); seen != c.IsAvailableCommand() {
			t.Errorf("%s is in the tree: %v, hidden: %v", c.Name(), seen, c.Hidden)
		}
	}
}
