// SPDX-License-Identifier: Apache-2.0

package httpproxy

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"unsafe"

	"github.com/egressd/egressd/forward/message"
	"github.com/egressd/egressd/internal/field"
)

// TestHTTP2AnswerKeeps: what net/http is given of an answer is its own, since it may
// write it when the buffer of the upstream's answer is another's.
func TestHTTP2AnswerKeeps(t *testing.T) {
	var buffers [][]byte
	view := func(s string) string {
		b := []byte(s)
		buffers = append(buffers, b)
		return unsafe.String(&b[0], len(b))
	}
	fields := func(s string) field.List { return field.List{{Name: view("X-" + s), Value: view(s)}} }
	w := httptest.NewRecorder()
	a := newHTTP2Answer(w)
	*a.Header() = fields("Header")
	a.Passes(&message.Response{Announced: []string{view("X-Trailer")}})
	a.WriteHeader(http.StatusOK)
	a.Trailer(fields("Trailer"))
	a.Trailer(fields("Late"))
	for _, b := range buffers {
		copy(b, slices.Repeat([]byte("!"), len(b)))
	}
	for name, want := range map[string]string{"X-Header": "Header", "Trailer": "X-Trailer", "X-Trailer": "Trailer", http.TrailerPrefix + "X-Late": "Late"} {
		if got := w.Header()[name]; len(got) != 1 || got[0] != want {
			t.Errorf("%s: %q, want %q; have %q", name, got, want, w.Header())
		}
	}
}
