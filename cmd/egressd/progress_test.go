// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"testing"
	"time"
)

// TestProgress: who looks at a terminal is told how far it is when it takes long, not more
// often than can be read, and nothing of it stays; nobody else sees anything.
func TestProgress(t *testing.T) {
	const erased = "\r\x1b[K"
	var out bytes.Buffer
	now := time.Unix(100, 0)
	p := &progress{to: &out, now: func() time.Time { return now }, next: now.Add(progressAfter)}
	step := func(d time.Duration, read, of int64) string {
		out.Reset()
		now = now.Add(d)
		p.told(read, of)
		return out.String()
	}
	p.erase()
	for _, c := range []struct {
		after    time.Duration
		read, of int64
		want     string
	}{
		{0, 1, 100, ""},
		{progressAfter - 1, 40, 1e8, ""},
		{1, 5e7, 1e8, erased + "reading flow logs: 50 % of 100.0 MB"},
		{progressEvery - 1, 6e7, 1e8, ""},
		{1, 7e7, 1e8, erased + "reading flow logs: 70 % of 100.0 MB"},
		{progressEvery, 11e7, 1e8, erased + "reading flow logs: 100 % of 100.0 MB"}, // it grows
		{progressEvery, 12e7, 0, erased + "reading flow logs: 120.0 MB"},
	} {
		if got := step(c.after, c.read, c.of); got != c.want {
			t.Errorf("%d of %d: %q, want %q", c.read, c.of, got, c.want)
		}
	}
	out.Reset()
	p.erase()
	p.erase()
	if out.String() != erased {
		t.Errorf("at the end: %q", out.String())
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	term := func(string) string { return "xterm" }
	if p := newProgress(env{stderr: null, getenv: term}); p.to != nil {
		t.Error("/dev/null is told")
	}
	if p := newProgress(env{stderr: &out, getenv: term}); p.to != nil {
		t.Error("a pipe is told")
	}
}
