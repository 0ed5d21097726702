// SPDX-License-Identifier: Apache-2.0

package privilege

import (
	"os"
	"strings"
	"testing"
)

// TestNeeded: docs and manifests have exactly these capabilities, each with a reason.
func TestNeeded(t *testing.T) {
	read := func(path string) string {
		data, err := os.ReadFile("../../" + path)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	manual, manifest := read("docs/KUBERNETES.md"), read("deploy/kubernetes/egressd.yaml")
	for _, c := range Needed(true) {
		if !strings.Contains(manual, "| `"+strings.TrimPrefix(c.Name, "CAP_")+"` |") {
			t.Errorf("docs/KUBERNETES.md does not say what %s is for", c.Name)
		}
	}
	want := ""
	for _, c := range Needed(false) {
		want += " " + strings.TrimPrefix(c.Name, "CAP_")
	}
	_, adds, _ := strings.Cut(manifest, "add:\n")
	adds, _, _ = strings.Cut(adds, "resources:\n")
	got := ""
	for line := range strings.Lines(adds) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "- "); ok {
			got += " " + name
		}
	}
	if got != want {
		t.Errorf("the manifest adds%s, the daemon needs%s", got, want)
	}
}

// TestUnit: the unit may have exactly these capabilities, and what --admin-group needs.
func TestUnit(t *testing.T) {
	unit, err := os.ReadFile("../../deploy/systemd/egressd.service")
	if err != nil {
		t.Fatal(err)
	}
	want := "CapabilityBoundingSet="
	for _, c := range Needed(true) {
		want += c.Name + " "
	}
	if want += "CAP_CHOWN\n"; !strings.Contains(string(unit), want) {
		t.Errorf("the unit has no %s", want)
	}
}

// TestCheck: what is missing is named with what it is for; what is not needed is not.
func TestCheck(t *testing.T) {
	if err := Check(nil); err != nil {
		t.Errorf("nothing is needed, and yet: %v", err)
	}
	const never = 40 + 23 // no such capability
	err := Check([]Capability{{"CAP_NEVER", "do the impossible", never}})
	if err == nil || !strings.Contains(err.Error(), "CAP_NEVER to do the impossible") {
		t.Errorf("%v", err)
	}
}
