// SPDX-License-Identifier: Apache-2.0

package uitest

import (
	"os"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// axeFile is axe-core, which hack/install-test-deps.sh puts there.
const axeFile = "../../bin/axe/node_modules/axe-core/axe.min.js"

// judge runs rules of axe-core (WCAG 2.0 to 2.2 in A and AA, and best practices) on what is
// shown, and returns what it found.
const judge = `((only, least) => axe.run(document, {resultTypes: ["violations"], ...only}).then(r => {
	if (r.passes.length + r.violations.length < least) return "hardly anything was judged";
	return r.violations.map(v => v.id + " (" + v.impact + "): " + v.help + "\n" + v.nodes.slice(0, 4).map(n => "  " + n.html.slice(0, 200) + "\n  " + n.failureSummary).join("\n")).join("\n");
}))`

// How a view is looked at. What is dark differs in its colours alone.
var (
	light  = manner{"light", 1360, judge + `({}, 20)`}
	dark   = manner{"dark", 1360, judge + `({runOnly: ["color-contrast"]}, 1)`}
	narrow = manner{"light", 360, judge + `({}, 20)`}
)

type manner struct {
	scheme string
	width  int64
	judge  string
}

// TestAccessible: nobody is kept out, in any view, light and dark, wide and narrow.
func TestAccessible(t *testing.T) {
	axe, err := os.ReadFile(axeFile)
	if err != nil {
		t.Fatalf("%v: hack/install-test-deps.sh browser", err)
	}
	busy, quiet, hurt := play(t, traffic()), play(t, nil), play(t, hostileEvents())
	x := open(t, busy.url+"/ui/")
	const explain = `document.querySelector('#table tr.denied button').click()`
	for _, view := range []struct {
		name, url    string
		first, until string // what is done, and what is waited for then
		manners      []manner
	}{
		{"flows", busy.url, "", "", []manner{light, dark, narrow}},
		{"details", busy.url, explain, `document.querySelector('#copy')`, []manner{light, dark, narrow}},
		{"filtered", busy.url, `(f => { f.value = 'nothing'; f.dispatchEvent(new Event('input')) })(document.querySelector('#filter'))`, `!document.querySelector('#table tbody tr')`, []manner{light}},
		{"chosen", busy.url, `document.querySelector('.host .node').click(); document.querySelector('.tile.denied').click()`, `document.querySelector('#picked button')`, []manner{light, dark}},
		{"empty", quiet.url, "", "", []manner{light}},
		{"hostile", hurt.url, "", "", []manner{light}},
		{"gone", busy.url, "away", `!document.querySelector('#again').hidden && document.querySelector('#state').textContent === 'no answer'`, []manner{light, dark, narrow}},
	} {
		x.do(t, emulation.SetDeviceMetricsOverride(1360, 1240, 1, false), chromedp.Navigate(view.url+"/ui/"), chromedp.WaitVisible("#found:not(:empty)", chromedp.ByQuery))
		switch view.first {
		case "":
		case "away":
			busy.away.Store(true)
		default:
			x.do(t, chromedp.Evaluate(view.first, nil))
		}
		if view.until != "" {
			x.is(t, view.name, view.until)
		}
		// A page forgets it when it is left.
		x.do(t, chromedp.Evaluate(string(axe)+"\n;true", nil))
		for _, how := range view.manners {
			var found string
			x.do(t, emulation.SetDeviceMetricsOverride(how.width, 1240, 1, false))
			x.look(t, "view-"+view.name, how.scheme)
			x.do(t, chromedp.Evaluate(how.judge, &found, func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }))
			if found != "" {
				t.Errorf("%s, %s, %d pixels wide:\n%s", view.name, how.scheme, how.width, found)
			}
		}
	}
}
