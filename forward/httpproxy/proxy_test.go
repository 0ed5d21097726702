// SPDX-License-Identifier: Apache-2.0

package httpproxy

import (
	"context"
	"testing"
	"time"
)

func TestBackoff(t *testing.T) {
	most := uint64(1<<63 - 1)
	for try, want := range []time.Duration{25, 50, 100, 200, 250, 250} {
		if got := backoff(0, try, 0); got != 0 {
			t.Errorf("least wait %s", got)
		}
		limit := want * time.Millisecond
		if got := backoff(0, try, most); got >= limit {
			t.Errorf("try %d: %s, want under %s", try, got, limit)
		}
		if got := backoff(0, try, uint64(limit-1)); got != limit-1 {
			t.Errorf("try %d: %s, want %s", try, got, limit-1)
		}
	}
}

func TestPercent(t *testing.T) {
	for _, tt := range []struct {
		p    float64
		r    uint64
		want bool
	}{{0, 0, false}, {100, 999_999, true}, {50, 499_999, true}, {50, 500_000, false}, {0.0001, 0, true}, {0.0001, 1, false}} {
		x := &exchange{core: &Proxy{o: Options{Rand: func() uint64 { return tt.r }}}}
		if got := x.percent(tt.p); got != tt.want {
			t.Errorf("percent(%v) with %d: %v", tt.p, tt.r, got)
		}
	}
}

func TestSleep(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	if !sleep(ctx, 0) || !sleep(ctx, time.Millisecond) {
		t.Error("a sleep was cut short")
	}
	cancel()
	if sleep(ctx, 0) || sleep(ctx, time.Hour) {
		t.Error("a sleep outlived its context")
	}
}
