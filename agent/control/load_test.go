// SPDX-License-Identifier: Apache-2.0

package control

import (
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
)

// TestRelease: memory is given back when a lot has been decoded, and not after a change
// of little, however big the policy is.
func TestRelease(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "big.yaml"), serviceEntry("a", "first.example.com")+strings.Repeat("# a policy is long\n", 2*bigFiles/19))
	small := filepath.Join(dir, "small.yaml")
	writeFile(t, small, serviceEntry("b", "second.example.com"))
	c := New(Options{Config: []string{dir}, Log: slog.New(slog.DiscardHandler)})
	if _, err := c.First(false); err != nil {
		t.Fatal(err)
	}
	c.release()
	first := c.config.released
	if first < 2*bigFiles-19 || first != c.config.reader.Decoded() {
		t.Fatalf("%d bytes count as cleaned up behind, of %d that were decoded", first, c.config.reader.Decoded())
	}
	writeFile(t, small, serviceEntry("b", "third.example.com"))
	if _, err := c.config.load(c.Snapshot()); err != nil {
		t.Fatal(err)
	}
	c.release()
	if decoded := c.config.reader.Decoded(); c.config.released != first || decoded <= first || decoded > first+1000 {
		t.Errorf("a change of little decoded %d bytes, and memory was given back at %d", decoded-first, c.config.released)
	}
}
