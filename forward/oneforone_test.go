// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/naivehttp"
)

// logOrigin keeps the bytes of its connections, one by one, and answers each request
// that the naive reader finds in them.
type logOrigin struct {
	mu   sync.Mutex
	got  []*bytes.Buffer
	open int
}

func (r *rig) newLogOrigin(host string) *logOrigin {
	o := &logOrigin{}
	r.origin(host, func(nc *net.TCPConn) {
		b := &bytes.Buffer{}
		o.mu.Lock()
		o.got = append(o.got, b)
		o.open++
		o.mu.Unlock()
		defer func() {
			o.mu.Lock()
			o.open--
			o.mu.Unlock()
		}()
		p := make([]byte, 4096)
		for answered := 0; ; {
			n, err := nc.Read(p)
			o.mu.Lock()
			b.Write(p[:n])
			all, _ := naivehttp.Requests(b.Bytes())
			o.mu.Unlock()
			for ; answered < len(all) && all[answered].Whole; answered++ {
				if _, err := io.WriteString(nc, okAnswer); err != nil {
					return
				}
			}
			if err != nil {
				return
			}
		}
	})
	return o
}

// settle waits until nothing is on its way to the origin any more.
func (o *logOrigin) settle(t *testing.T, r *rig, host string) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Microsecond) {
		o.mu.Lock()
		ended := o.open == 0 && len(o.got) == r.dialCount(host)
		o.mu.Unlock()
		if ended && r.core.Stats().Open == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("connections stay open")
		}
	}
}

// seen are the requests of all connections, and what no reader takes for one.
func (o *logOrigin) seen() (all []naivehttp.Reading, odd string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, b := range o.got {
		list, end := naivehttp.Requests(b.Bytes())
		all = append(all, list...)
		if end == naivehttp.Refused {
			odd += b.String()
		}
	}
	return all, odd
}

// statuses are those of the answers that come until the end of a connection, which
// must come.
func statuses(t *testing.T, nc net.Conn) (list []int) {
	br := bufio.NewReader(nc)
	for {
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			if e, ok := err.(net.Error); ok && e.Timeout() { //nolint:errorlint // as it is read
				t.Errorf("the connection stays open behind %v", list)
			}
			return list
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		if resp.StatusCode >= 200 {
			list = append(list, resp.StatusCode)
		}
	}
}

// TestOneForOne: whatever form a request has that servers read in two ways, a reader at
// the origin that shares nothing with egressd finds there the requests that it finds
// in what the client sent: no other, none twice, each with its body and with the
// fields that are its own.
func TestOneForOne(t *testing.T) {
	r := newRig(t, HTTP, func(o *Options) { o.PeekTimeout = patience })
	o := r.newLogOrigin("h")
	passed, partly := 0, 0
	for _, form := range naivehttp.Forms() {
		before, _ := o.seen()
		sent, end := naivehttp.Requests([]byte(form))
		nc := r.dial()
		_, _ = io.WriteString(nc, form) // an answer may end it early
		_ = nc.CloseWrite()
		answers := statuses(t, nc)
		nc.Close()
		o.settle(t, r, "h")
		now, odd := o.seen()
		got := now[len(before):]
		if odd != "" {
			t.Errorf("%q: the origin got %q", form, odd)
		}
		if len(got) > len(sent) || len(answers) > len(sent)+1 {
			t.Errorf("%q: %d requests, %d at the origin, answers %v", form, len(sent), len(got), answers)
			continue
		}
		// Some are answered by egressd, as those for another host are: what is left
		// is in order.
		rest := sent
		for _, g := range got {
			i := slices.IndexFunc(rest, func(s naivehttp.Reading) bool {
				return g.Method == s.Method && g.Target == s.Target && strings.EqualFold(g.Host, s.Host) && (!g.Whole || s.Whole && g.Body == s.Body)
			})
			if i < 0 {
				t.Errorf("%q: the origin got %+v", form, g)
				break
			}
			rest = rest[i+1:]
		}
		// What is refused for more than its framing is so before it goes anywhere; what
		// goes on does so whole, and as often as it was sent.
		switch ok := answeredWith(answers, 200); {
		case ok != wholeOf(got):
			t.Errorf("%q: answers %v to %d whole requests at the origin", form, answers, wholeOf(got))
		case ok == len(sent) && ok > 0 && end != naivehttp.Refused:
			passed++
		case ok > 0:
			partly++
		}
	}
	t.Logf("of %d forms %d passed, %d in part", len(naivehttp.Forms()), passed, partly)
	if passed < 30 || passed+partly > len(naivehttp.Forms())/2 {
		t.Errorf("%d forms passed, %d in part: the test can't tell", passed, partly)
	}
}

func answeredWith(statuses []int, status int) (n int) {
	for _, s := range statuses {
		if s == status {
			n++
		}
	}
	return n
}

func wholeOf(all []naivehttp.Reading) (n int) {
	for _, m := range all {
		if m.Whole {
			n++
		}
	}
	return n
}

// TestOneForOneDirect: the twin. The same forms reach a server that is asked without
// egressd as they are, and many of them are no single request there.
func TestOneForOneDirect(t *testing.T) {
	r := newRig(t, HTTP)
	o := r.newLogOrigin("h")
	r.mu.Lock()
	addr := r.addrs["h"].String()
	r.mu.Unlock()
	for _, form := range naivehttp.Forms()[:40] {
		nc := dialTo(t, addr)
		_, _ = io.WriteString(nc, form)
		_ = nc.CloseWrite()
		_, _ = io.Copy(io.Discard, nc)
		nc.Close()
	}
	deadline := time.Now().Add(patience)
	for {
		if _, odd := o.seen(); odd != "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing odd reached the origin: the forms are harmless")
		}
		time.Sleep(time.Millisecond)
	}
}
