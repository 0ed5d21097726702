// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"log/slog"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/egressd/egressd/agent/admin/ui"
	"github.com/egressd/egressd/agent/events"
)

// TestPageIsForBrowsers: the web page is at the TCP port, which changes nothing, and not at
// the socket, which does; all of the port refuses what a page of another site asks for,
// and programs that are no browsers notice nothing of it.
func TestPageIsForBrowsers(t *testing.T) {
	recorder := events.NewRecorder(slog.New(slog.DiscardHandler))
	s := View{Flows: recorder, Events: recorder, Server: func() About { return About{Started: time.Now()} }, Unload: func() { t.Error("unloaded") }}
	for _, c := range []struct {
		change             bool
		method, path, site string
		want               int
	}{
		{false, "GET", ui.Path, "", 200},
		{false, "GET", ui.Path, "none", 200},
		{false, "GET", "/ui/flows", "same-origin", 200},
		{false, "GET", "/ui/flows", "cross-site", 403},
		{false, "GET", "/flows", "", 200},
		{false, "GET", "/flows", "same-site", 403},
		{false, "GET", "/config_dump", "cross-site", 403},
		{false, "POST", "/ui/flows", "", 405},
		{false, "POST", "/unload", "same-origin", 404},
		{true, "GET", ui.Path, "", 404},
		{true, "GET", "/ui/flows", "", 404},
		{true, "GET", "/flows", "", 200},
	} {
		r := httptest.NewRequest(c.method, c.path, nil)
		if c.site != "" {
			r.Header.Set("Sec-Fetch-Site", c.site)
		}
		w := httptest.NewRecorder()
		if s.Admin(c.change).ServeHTTP(w, r); w.Code != c.want {
			t.Errorf("%s %s, %q, change %v: %d, not %d", c.method, c.path, c.site, c.change, w.Code, c.want)
		}
	}
}
