// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// asked is what a handler answers.
func asked(h http.Handler) (int, string) {
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/healthz/live", nil))
	return rec.Code, rec.Body.String()
}

// TestLive: a daemon that answers itself lives, one that fails or is stuck does not,
// and however often a stuck one is asked, it is asked once.
func TestLive(t *testing.T) {
	if code, text := asked(NewLive(func(context.Context) error { return nil })); code != http.StatusOK {
		t.Errorf("%d %s", code, text)
	}
	failing := NewLive(func(context.Context) error { return errors.New("the proxy is stuck") })
	if code, text := asked(failing); code != http.StatusServiceUnavailable || !strings.Contains(text, "the proxy is stuck") {
		t.Errorf("%d %s", code, text)
	}
	var runs atomic.Int32
	end := make(chan struct{})
	stuck := NewLive(func(context.Context) error { runs.Add(1); <-end; return nil })
	stuck.wait = 10 * time.Millisecond
	for range 3 {
		if code, text := asked(stuck); code != http.StatusServiceUnavailable || !strings.Contains(text, "does not answer itself") {
			t.Errorf("%d %s", code, text)
		}
	}
	if n := runs.Load(); n != 1 {
		t.Errorf("%d checks at a time", n)
	}
	// It is stuck no longer.
	close(end)
	stuck.wait = time.Minute
	if code, text := asked(stuck); code != http.StatusOK {
		t.Errorf("%d %s", code, text)
	}
}
