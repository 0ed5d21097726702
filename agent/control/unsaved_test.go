// SPDX-License-Identifier: Apache-2.0

package control

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestUnsavedIsSaidOnce: a failure that goes on is one line, another cause is
// another one, and so is the end of it.
func TestUnsavedIsSaidOnce(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	var u Unsaved
	now := time.Now()
	for _, tt := range []struct {
		err  error
		want string // in the new lines; "": there is none
	}{
		{nil, ""},
		{fmt.Errorf("write .tmp1: %w", syscall.ENOSPC), "level=WARN"},
		{fmt.Errorf("write .tmp2: %w", syscall.ENOSPC), ""},
		{fmt.Errorf("open .tmp3: %w", syscall.ENOENT), "are refused"},
		{nil, "saved again"},
		{nil, ""},
		{fmt.Errorf("write .tmp4: %w", syscall.ENOSPC), "no space"},
	} {
		out.Reset()
		u.Note(log, SavedNames, tt.err, now)
		if got := out.String(); (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%v: said %q, want %q", tt.err, got, tt.want)
		}
		if (u.all()[SavedNames] != nil) != (tt.err != nil) {
			t.Errorf("%v: known %v", tt.err, u.all())
		}
	}
	if u.Due(SavedNames, now.Add(saveAgain-1)) || !u.Due(SavedNames, now.Add(saveAgain)) || !u.Due(SavedPolicy, now) {
		t.Error("attempts are due at other times")
	}
}
