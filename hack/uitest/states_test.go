// SPDX-License-Identifier: Apache-2.0

package uitest

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// TestPageWithoutDaemon: the page says that nothing was decided yet; when the daemon goes away
// it says so, and since when, and keeps what it has; when it is there again it goes on, and
// when it is another one it begins anew and says that.
func TestPageWithoutDaemon(t *testing.T) {
	p := play(t, nil)
	x := open(t, p.url+"/ui/")
	x.is(t, "nothing yet", `document.querySelector('#map .empty').textContent.startsWith('Nothing was decided yet') && document.querySelector('#notice').hidden`)
	for _, e := range traffic() {
		p.events.Record(&e)
	}
	row := `document.querySelector('#table tbody tr')`
	x.is(t, "what comes then", row)

	p.away.Store(true)
	gone := `document.querySelector('#trouble').textContent.startsWith('egressd has not answered since ') && document.querySelector('#state').textContent === 'no answer'`
	x.is(t, "that it is gone", gone+` && `+row)
	p.away.Store(false)
	x.do(t, chromedp.Evaluate(`document.querySelector('#again').focus(), document.querySelector('#again').click()`, nil))
	x.is(t, "that it is back", `document.querySelector('#notice').hidden && document.querySelector('#state').textContent === 'ready' && document.querySelector('#spoken').textContent === 'egressd answers again.' && `+row)
	x.is(t, "the focus is not lost", `document.activeElement.id === 'live'`)

	p.away.Store(true)
	x.is(t, "that it is gone again", gone)
	p.begin(time.Now().Add(time.Second), nil)
	p.away.Store(false) // nobody presses anything: the page asks by itself
	x.is(t, "that it is another one", `document.querySelector('#trouble-more').textContent.startsWith('egressd was started again at ') && document.querySelector('#again').hidden && !`+row)
	x.mu.Lock()
	x.complaints = slices.DeleteFunc(x.complaints, func(c string) bool { return strings.Contains(c, "net::ERR_") }) // of the time without a daemon
	x.mu.Unlock()
	x.quiet(t, p.url)
}

// TestThousands: with thousands of hosts and workloads the map folds processes into workloads and
// says what it leaves out, each box has a line, and what is chosen is shown whole.
func TestThousands(t *testing.T) {
	var events []flow.Event
	for i := range 4000 {
		e := flow.Event{Workload: fmt.Sprintf("team-%d/service-%d", i%40, i%400), Process: flow.Process{Command: []string{"node", "java", "python3"}[i%3]}, Name: fmt.Sprintf("host-%d.example", i%3000)}
		if i%3 == 0 {
			e.Reason, e.Count, e.More = policy.ReasonName, 1, 1
		} else {
			e.Allowed, e.Verdict, e.Reason = true, policy.Inspect, policy.ReasonAllowed
		}
		events = append(events, event(e))
	}
	x := open(t, stage(t, events)+"/ui/")
	x.is(t, "all of it", `document.querySelector('#found').textContent === '4,000 flows'`)
	x.is(t, "the first rows", `document.querySelectorAll('#table tbody tr').length === 100 && document.querySelector('#table > .plain').textContent === 'Show more (3,900)'`)
	x.is(t, "what is left out", `/^Processes are folded into their workloads\. [\d,]+ more workloads and [\d,]+ more hosts are in the table/.test(document.querySelector('#map .more').textContent)`)
	lines := `document.querySelectorAll('#map .edge').length`
	x.is(t, "bounds", `document.querySelectorAll('#map .host .node').length <= 24 && document.querySelectorAll('#map .who .node').length <= 24 && `+lines+` >= 24 && document.querySelectorAll('#map .edge.denied, #map .edge.allowed').length === `+lines)
	// 4,000 events are 10 of each workload, of three processes.
	x.do(t, chromedp.Evaluate(`document.querySelector('#map .who .node').click()`, nil))
	x.is(t, "a workload's processes", `document.querySelectorAll('#map .who .node').length === 3 && document.querySelectorAll('#map .host .node').length === 10 && `+lines+` === 10 && !document.querySelector('.edge.dim') && document.querySelector('#found').textContent === '10 flows'`)
	x.do(t, chromedp.Evaluate(`document.querySelector('#picked button').click(), document.querySelector('#table > .plain').click()`, nil))
	x.is(t, "more rows", `document.querySelectorAll('#table tbody tr').length === 200`)
}

// TestFramed: another site can neither show the page in a frame nor read what the page reads.
func TestFramed(t *testing.T) {
	base := stage(t, traffic())
	x := open(t, base+"/ui/")
	x.mu.Lock()
	x.requests = nil
	x.mu.Unlock()
	evil := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<body><iframe src="%[1]s/ui/" onload="document.body.dataset.framed='done'"></iframe><script>
			fetch('%[1]s/ui/flows').then(r => r.text()).then(t => t, e => 'refused').then(t => document.body.dataset.read = t);
		</script>`, base)
	}))
	defer evil.Close()
	x.do(t, chromedp.Navigate(evil.URL))
	x.is(t, "the frame and the answer", `document.body.dataset.framed && document.body.dataset.read`)
	if got := x.text(t, "document.body.dataset.read"); got != "refused" {
		t.Errorf("another site reads %q", got)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if !slices.Contains(x.requests, base+"/ui/") || slices.Contains(x.requests, base+"/ui/app.js") {
		t.Errorf("the frame asked for %q", x.requests)
	}
	// It is refused before its policy (frame-ancestors) is asked.
	if !slices.ContainsFunc(x.complaints, func(c string) bool { return strings.Contains(c, "403 (Forbidden) "+base+"/ui/") }) {
		t.Errorf("the browser says %q", x.complaints)
	}
}
