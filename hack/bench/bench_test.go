// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/policy/load"
)

const wrkOutput = `Running 2s test @ http://bench.example.com/
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   617.81us   81.26us   1.97ms   79.07%
  103224 requests in 2.10s, 69.50MB read
Requests/sec:  49154.01
`

func TestParseWrk(t *testing.T) {
	tests := []struct {
		name, out string
		n         float64
		d         time.Duration
		ok        bool
	}{
		{"good", wrkOutput, 103224, 2100 * time.Millisecond, true},
		{"refused by status", wrkOutput + "  Non-2xx or 3xx responses: 103224\n", 0, 0, false},
		{"nothing", strings.Replace(wrkOutput, "103224", "0", 1), 0, 0, false},
		{"unable to connect", "unable to connect to bench.example.com:http Connection refused", 0, 0, false},
	}
	for _, tt := range tests {
		n, d, err := parseWrk(tt.out)
		if (err == nil) != tt.ok || n != tt.n || d != tt.d {
			t.Errorf("%s: %v, %v, %v", tt.name, n, d, err)
		}
	}
}

func TestMedian(t *testing.T) {
	for _, tt := range []struct {
		in   []float64
		want float64
	}{{[]float64{3}, 3}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1, 3, 2}, 2.5}} {
		if got := median(tt.in); got != tt.want {
			t.Errorf("median(%v) = %v, want %v", tt.in, got, tt.want)
		}
	}
}

func TestResult(t *testing.T) {
	b := &bench{options: options{rounds: 2, duration: time.Second}}
	b.subjects = []subject{{name: "direct"}, {name: "nginx"}, {name: "broken"}}
	res := newResult(b.options)
	res.contest(b)
	d := benchmarks()[0]
	for _, v := range []float64{100, 200} {
		res.add(d, b.subjects[0], sample{value: v})
		res.add(d, b.subjects[1], sample{value: v / 2, cpu: 20e-6})
	}
	res.fail(d, b.subjects[2], errors.New("refused"))
	var text, doc bytes.Buffer
	if err := errors.Join(res.writeText(&text), res.writeJSON(&doc)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"nginx    75.0       0.50        20.0  50.0..100", "broken  failed"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in\n%s", want, text.String())
		}
	}
	var got result
	if err := json.Unmarshal(doc.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if c := got.Rows[0].Cells; c[1].Ratio != 0.5 || c[1].CPU != 20 || c[2].Error != "refused" {
		t.Errorf("%+v %+v", c[1], c[2])
	}
}

// TestShapes: what is measured is what is said: so many hosts, and no finding.
func TestShapes(t *testing.T) {
	for _, s := range shapes()[:3] {
		dir := t.TempDir()
		for name, content := range s.files() {
			if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		l, err := load.Paths([]string{dir}, nil)
		if err != nil || len(l.Findings) > 0 {
			t.Fatalf("%s: %v %v", s.name, err, l.Findings)
		}
		hosts := strings.Count(l.Snapshot.Text(), "\n  host ")
		if want := s.hosts + s.hosts/10 + (s.addresses+249)/250; hosts != want {
			t.Errorf("%s: %d hosts, want %d", s.name, hosts, want)
		}
	}
}

func TestAppliedLine(t *testing.T) {
	m := appliedLine.FindStringSubmatch(`time=T level=INFO msg="policy applied" hash=abc services=3 read=1.5ms decode=2s compile=3µs apply=0s`)
	if len(m) != 5 || m[1] != "1.5ms" || m[4] != "0s" {
		t.Errorf("%q", m)
	}
}

func TestWriteScale(t *testing.T) {
	res := &result{Scale: []*scale{
		{Policy: "small", Ready: 120, Read: 1, Decode: 2, Compile: 3, Memory: &memory{RSS: 20, Maps: map[string]float64{"egd_a": 1}}},
		{Policy: "big", Change: &change{Effective: 105}, Memory: &memory{RSS: 150, Maps: map[string]float64{"egd_a": 2}},
			Flat: &flat{Refused: 1.7, Allowed: 17, RefusedToSmall: 1.01}},
	}}
	var text bytes.Buffer
	if err := res.writeText(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"small", "big", "120", "6.0", "105", "150", "1.01", "egd_a"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in\n%s", want, text.String())
		}
	}
}
