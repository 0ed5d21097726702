// SPDX-License-Identifier: Apache-2.0

package uitest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// patience bounds one wait of a test, on a machine that has much to do.
const patience = time.Minute

// tab is a page in a browser, and what went wrong in it.
type tab struct {
	ctx context.Context
	mu  sync.Mutex
	// complaints are errors and warnings of the console, exceptions, dialogs that scripts
	// opened; requests is what was asked for.
	complaints, requests []string
}

// open starts a browser that reaches nothing but loopback, and goes to a page.
func open(t *testing.T, url string) *tab {
	t.Helper()
	program, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal("there is no chromium: hack/install-test-deps.sh browser")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(program), chromedp.NoSandbox, chromedp.WSURLReadTimeout(patience), chromedp.WindowSize(1360, 1240),
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"), chromedp.Flag("disable-component-update", true),
		chromedp.UserDataDir(t.TempDir()))
	allocator, end := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, closeTab := chromedp.NewContext(allocator, chromedp.WithErrorf(func(format string, args ...any) {
		// A newer browser tells more than chromedp knows of.
		if !strings.HasPrefix(format, "unhandled") {
			t.Errorf(format, args...)
		}
	}))
	x := &tab{ctx: ctx}
	t.Cleanup(func() {
		_ = chromedp.Cancel(ctx) // what is wrong with its end is no matter of the page
		closeTab()
		end()
	})
	chromedp.ListenTarget(ctx, x.hear)
	x.do(t, network.Enable(), log.Enable(), chromedp.Navigate(url), chromedp.WaitVisible("#found:not(:empty)", chromedp.ByQuery))
	return x
}

// hear notes what the page complains of.
func (x *tab) hear(ev any) {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch ev := ev.(type) {
	case *runtime.EventConsoleAPICalled:
		var words []string
		for _, a := range ev.Args {
			words = append(words, string(a.Value))
		}
		x.complaints = append(x.complaints, fmt.Sprintf("console.%s %s", ev.Type, strings.Join(words, " ")))
	case *runtime.EventExceptionThrown:
		x.complaints = append(x.complaints, ev.ExceptionDetails.Error())
	case *log.EventEntryAdded:
		x.complaints = append(x.complaints, fmt.Sprintf("%s: %s %s", ev.Entry.Level, ev.Entry.Text, ev.Entry.URL))
	case *page.EventJavascriptDialogOpening:
		x.complaints = append(x.complaints, "a dialog: "+ev.Message)
	case *network.EventRequestWillBeSent:
		x.requests = append(x.requests, ev.Request.URL)
	}
}

// quiet checks that nothing went wrong, and that nothing was asked for elsewhere.
func (x *tab) quiet(t *testing.T, base string) {
	t.Helper()
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, c := range x.complaints {
		t.Errorf("the page: %s", c)
	}
	for _, r := range x.requests {
		if !strings.HasPrefix(r, base) {
			t.Errorf("the page asks for %s", r)
		}
	}
	if len(x.requests) < 5 {
		t.Errorf("nothing was seen of what the page asks for: %q", x.requests)
	}
}

func (x *tab) do(t *testing.T, actions ...chromedp.Action) {
	t.Helper()
	ctx, cancel := context.WithTimeout(x.ctx, patience)
	defer cancel()
	// The first use starts the browser, which lives as long as the context of that.
	if chromedp.FromContext(x.ctx).Browser == nil {
		if err := chromedp.Run(x.ctx); err != nil {
			t.Fatal(err)
		}
	}
	if err := chromedp.Run(ctx, actions...); err != nil {
		t.Fatal(err)
	}
}

// is waits until an expression of the page is true.
func (x *tab) is(t *testing.T, what, expression string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(x.ctx, patience)
	defer cancel()
	if err := chromedp.Run(ctx, chromedp.Poll(expression, nil)); err != nil {
		t.Errorf("%s: %v; the page says:\n%s", what, err, x.text(t, "document.body.innerText"))
	}
}

// text is what an expression says.
func (x *tab) text(t *testing.T, expression string) (s string) {
	t.Helper()
	x.do(t, chromedp.Evaluate("String("+expression+")", &s))
	return s
}

// press sends keys, one after the other.
func (x *tab) press(t *testing.T, keys ...string) {
	t.Helper()
	for _, k := range keys {
		x.do(t, chromedp.KeyEvent(k))
	}
}

// tabTo presses Tab until an expression of the focused element (e) is true.
func (x *tab) tabTo(t *testing.T, what, expression string) {
	t.Helper()
	for range 80 {
		x.press(t, kb.Tab)
		if x.text(t, "(e => Boolean("+expression+"))(document.activeElement)") == "true" {
			return
		}
	}
	t.Fatalf("the keyboard does not reach %s", what)
}

// look makes the page light or dark, and takes a picture, which is kept when
// $EGRESSD_PICTURES is a directory. It returns the colour of the page.
func (x *tab) look(t *testing.T, name, scheme string) string {
	t.Helper()
	var png []byte
	x.do(t, emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"}}),
		chromedp.CaptureScreenshot(&png))
	if len(png) < 20<<10 {
		t.Errorf("the picture %s has %d bytes: there is nothing in it", name, len(png))
	}
	if dir := os.Getenv("EGRESSD_PICTURES"); dir != "" {
		if err := os.WriteFile(filepath.Join(dir, name+"-"+scheme+".png"), png, 0o644); err != nil {
			t.Error(err)
		}
	}
	return x.text(t, "getComputedStyle(document.body).backgroundColor")
}
