// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/xml"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
)

// notAsH2spec are h2spec's cases that egressd does not pass, and why.
var notAsH2spec = map[string]string{
	"http2/3.5/2":     "the port speaks HTTP/1 as well: what is no preface of HTTP/2 is a bad request of HTTP/1",
	"http2/6.5.3/1":   "Go ends a connection whose SETTINGS have an identifier twice",
	"http2/8.1.2.2/1": "a field that is for one connection is answered 400; nothing goes on",
	"http2/8.1.2.2/2": "the same of a TE field",
}

// TestH2spec: a Gateway speaks HTTP/2 as h2spec wants it, but for what
// notAsH2spec says; a case that is passed must not stand there.
func TestH2spec(t *testing.T) {
	t.Parallel()
	testenv.RequireTool(t, "go")
	h2spec := filepath.Join(t.TempDir(), "h2spec")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", h2spec, "github.com/summerwind/h2spec/cmd/h2spec")
	build.Dir = "../../hack/h2spec" // a module of its own
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build h2spec: %v\n%s", err, out)
	}
	config := seed(t, "bookinfo-gateway.yaml")
	config["productpage.yaml"] = productpage
	n := start(t, config, func(w *world.World) {
		if _, err := w.AddOrigin(world.OriginConfig{
			Names: []string{"productpage.example"}, V4: netip.MustParseAddr("10.96.7.80"), HTTP: []uint16{9080}, HTTPS: []uint16{},
		}); err != nil {
			t.Fatal(err)
		}
	}, "--gateway-selector", "istio=ingressgateway")
	report := filepath.Join(t.TempDir(), "report.xml")
	e := finish(t, n.Net.Command(t.Context(), nil, h2spec, "-h", world.NodeV4, "-p", "80", "-P", "/productpage", "-j", report))
	failed, passed := h2specReport(t, report)
	if len(passed) < 130 {
		t.Errorf("h2spec has %d cases that passed:\n%s%s", len(passed), e.stdout, e.stderr)
	}
	for _, name := range failed {
		if notAsH2spec[name] == "" {
			t.Errorf("%s failed", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(notAsH2spec)) {
		if slices.Contains(passed, name) {
			t.Errorf("%s passed; it need not be in the list any more", name)
		}
	}
	if t.Failed() {
		t.Logf("%s", e.stdout)
	}
	t.Logf("%d of %d cases passed", len(passed), len(passed)+len(failed))
}

// h2specReport reads h2spec's report: names are SPECIFICATION/SECTION/NUMBER.
func h2specReport(t *testing.T, path string) (failed, passed []string) {
	t.Helper()
	var report struct {
		Suites []struct {
			Package string `xml:"package,attr"`
			Cases   []struct {
				Failure *struct{} `xml:"failure"`
				Error   *struct{} `xml:"error"`
				Skipped *struct{} `xml:"skipped"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := xml.Unmarshal(raw, &report); err != nil {
		t.Fatalf("%v\n%s", err, raw)
	}
	for _, s := range report.Suites {
		for i, c := range s.Cases {
			name := strings.Join([]string{s.Package, strconv.Itoa(i + 1)}, "/")
			switch {
			case c.Failure != nil || c.Error != nil:
				failed = append(failed, name)
			case c.Skipped == nil:
				passed = append(passed, name)
			}
		}
	}
	return failed, passed
}
