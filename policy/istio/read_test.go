// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// TestLoadBatches reads a file of many batches: lines count through, findings
// come in reading order, and text that belongs together is not torn apart.
func TestLoadBatches(t *testing.T) {
	var text strings.Builder
	line := 1
	write := func(s string) (first int) {
		first = line
		text.WriteString(s)
		line += strings.Count(s, "\n")
		return first
	}
	object := func(name, host string) string {
		return fmt.Sprintf("---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata:\n  name: %s\nspec:\n  hosts:\n  - %s\n"+
			"  ports:\n  - number: 443\n    name: tls\n    protocol: TLS\n  resolution: DNS\n", name, host)
	}
	fill := func(name string) {
		for i := range 2 * batchSize / 200 {
			write(object(fmt.Sprintf("%s%d", name, i), fmt.Sprintf("%s%d.example.com", name, i)))
		}
	}
	fill("a")
	host := write(object("bad", "a..b"))
	fill("b")
	again := write(object("bad", "good.example.com"))
	fill("c")
	write(strings.Repeat("# a comment as long as a batch\n", batchSize/30) + "...\n%YAML 1.1\n")
	alias := write(strings.Replace(object("alias", "&h x.example.com\n  - *h"), "resolution: DNS", "resolution: [DNS]", 1))
	fill("d")
	syntax := write("---\na: b\n c: d\n")
	fill("e")
	cfg, findings := Load([]File{{Name: "f", Data: []byte(text.String())}}, Options{})
	if cfg != nil {
		t.Error("accepted")
	}
	want := []string{
		fmt.Sprintf("f:%d:5: error: invalid host", host+7),
		fmt.Sprintf("f:%d:9: error: the object is already defined at f:%d:9", again+4, host+4),
		fmt.Sprintf("f:%d:5: warning: host \"x.example.com\" is listed twice", alias+7),
		fmt.Sprintf("f:%d:15: error: spec.resolution: expected one of", alias+13),
		fmt.Sprintf("f:%d: error: invalid YAML", syntax+2),
	}
	if len(findings) != len(want) {
		t.Fatalf("%d findings, want %d: %v", len(findings), len(want), findings[:min(len(findings), 5)])
	}
	for i, f := range findings {
		if !strings.HasPrefix(f.String(), want[i]) {
			t.Errorf("finding %q, want %q", f, want[i])
		}
	}
}

// TestBatchesWhole: nothing of a file is lost between its batches.
func TestBatchesWhole(t *testing.T) {
	data := []byte(strings.Repeat("---\na: "+strings.Repeat("b", 1000)+"\n", 1000))
	var back []byte
	batches := batchesOf(File{Name: "f", Data: data}, batchSize)
	for _, b := range batches {
		if b.Line != bytes.Count(back, []byte("\n")) {
			t.Errorf("a batch starts at line %d, want %d", b.Line, bytes.Count(back, []byte("\n")))
		}
		back = append(back, b.Text...)
	}
	if !bytes.Equal(back, data) || len(batches) < 10 {
		t.Errorf("%d batches have %d bytes, want %d", len(batches), len(back), len(data))
	}
}
