// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
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
	b.contestants = []contestant{{name: "direct"}, {name: "nginx"}, {name: "broken"}}
	res := newResult(b)
	d := disciplines()[0]
	for _, v := range []float64{100, 200} {
		res.add(d, b.contestants[0], sample{value: v})
		res.add(d, b.contestants[1], sample{value: v / 2, cpu: 20e-6})
	}
	res.fail(d, b.contestants[2], errors.New("refused"))
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
