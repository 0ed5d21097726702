// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/egressd/egressd/loader"
)

// TestShortage: that there is no room for all cgroups is said when it begins and
// when it ends, is in the status meanwhile, and is no error of what fits.
func TestShortage(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	var s shortage
	full := fmt.Errorf("bind: %w", &loader.WorkloadsFullError{Left: 3, Max: 65536})
	for _, tt := range []struct {
		err        error
		unnumbered int
		said, text string // "": nothing
	}{
		{nil, 0, "", ""},
		{full, 0, "cgroups=3 room=65536", ": 3"},
		{full, 0, "", ": 3"},
		{full, 1, "", ": 4"},
		{nil, 1, "", ": 1"},
		{nil, 0, "again", ""},
		{nil, 2, "cgroups=2 workloads=16384", ": 2"},
	} {
		out.Reset()
		s.unnumbered = tt.unnumbered
		if err := s.room(tt.err); err != nil {
			t.Errorf("%+v: %v", tt, err)
		}
		s.say(log)
		if got := out.String(); (got == "") != (tt.said == "") || !strings.Contains(got, tt.said) {
			t.Errorf("%+v: said %q", tt, got)
		}
		if got := s.text(); (got == "") != (tt.text == "") || !strings.HasSuffix(got, tt.text) {
			t.Errorf("%+v: the status says %q", tt, got)
		}
	}
	if other := errors.New("other"); !errors.Is(s.room(other), other) {
		t.Error("another error is swallowed")
	}
}
