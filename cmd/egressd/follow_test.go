// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/egressd/egressd/agent/events"
)

// TestFlowsFollow: flows -f goes on behind the last event of the same daemon, shows what
// it says is lost, and says where another one begins; how far it is, it shows to nobody.
func TestFlowsFollow(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	line := func(name string, number int) string {
		return fmt.Sprintf(`{"time":"2026-01-02T03:04:05Z","kind":"decision","layer":"kernel","process":{},"name":%q,"verdict":"direct","allowed":true,"reason":"allowed","number":%d}`+"\n", name, number)
	}
	answers := []struct{ instance, body string }{
		{"one", line("a.example", 3) + `{"time":"2026-01-02T03:04:05Z","kind":"position","process":{},"verdict":"deny","allowed":false,"reason":"","number":7}` + "\n"},
		{"one", `{"time":"2026-01-02T03:04:05Z","kind":"lost","process":{},"verdict":"deny","allowed":false,"reason":"","more":5,"number":12}` + "\n" + line("b.example", 13)},
		{"two", line("c.example", 1)},
	}
	var asked []string
	dir := fakeDaemon(t, func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		asked = append(asked, q.Get(events.Instance)+" "+q.Get(events.After))
		if len(asked) > len(answers) {
			cancel()
			<-r.Context().Done()
			return
		}
		a := answers[len(asked)-1]
		w.Header().Set(events.InstanceHeader, a.instance)
		fmt.Fprint(w, a.body)
	})
	var stdout, stderr bytes.Buffer
	code := run(ctx, env{strings.NewReader(""), &stdout, &stderr, func(string) string { return "" }, func() []string { return nil }, false}, []string{"flows", "-f", "-o", "json", "--state-dir", dir})
	if got := strings.Join(asked, ", "); code != exitGood || !strings.HasPrefix(got, " 0, one 7, one 13, two 1") {
		t.Errorf("exit code %d, asked %q: %s", code, got, &stderr)
	}
	if want := answers[0].body[:strings.Index(answers[0].body, "\n")+1] + answers[1].body + answers[2].body; stdout.String() != want {
		t.Errorf("%s, want\n%s", &stdout, want)
	}
	for _, want := range []string{"connected again, and going on where it was left\n", "to a daemon that was started anew; what the one before it decided after "} {
		if strings.Count(stderr.String(), want) != 1 {
			t.Errorf("no %q in %s", want, &stderr)
		}
	}
}
