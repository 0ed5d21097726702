// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"bytes"
	"net/http"
	"sync"
	"time"
)

// fresh is how long what is expensive to gather counts as new.
const fresh = time.Second

// Page serves what a handler wrote not long ago: however often it is asked
// for, it costs the handler's work once.
type Page struct {
	handler http.Handler
	now     func() time.Time

	mu   sync.Mutex
	at   time.Time
	last written
}

// NewPage makes a Page of what a handler writes.
func NewPage(h http.Handler) *Page { return &Page{handler: h, now: time.Now} }

// written is a response.
type written struct {
	header http.Header
	code   int
	body   []byte
}

// ServeHTTP implements http.Handler.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	last := p.get(r)
	for name, values := range last.header {
		w.Header()[name] = values
	}
	w.WriteHeader(last.code)
	_, _ = w.Write(last.body) // the reader left
}

func (p *Page) get(r *http.Request) written {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := p.now(); p.last.code == 0 || now.Sub(p.at) >= fresh {
		rec := &record{written: written{header: http.Header{}, code: http.StatusOK}}
		// For all readers alike: without what one of them would like.
		plain := r.Clone(r.Context())
		plain.Header = http.Header{}
		p.handler.ServeHTTP(rec, plain)
		rec.body = rec.buf.Bytes()
		p.last, p.at = rec.written, now
	}
	return p.last
}

// record is an http.ResponseWriter that keeps the response.
type record struct {
	written
	buf bytes.Buffer
}

func (r *record) Header() http.Header         { return r.header }
func (r *record) WriteHeader(code int)        { r.code = code }
func (r *record) Write(b []byte) (int, error) { return r.buf.Write(b) }

// Recently is a value that is gathered at most once in the time that fresh is.
type Recently[T any] struct {
	mu    sync.Mutex
	at    time.Time
	value T
}

// Get returns the value, and makes it when it is old.
func (c *Recently[T]) Get(now time.Time, gather func() T) T {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at.IsZero() || now.Sub(c.at) >= fresh {
		c.value, c.at = gather(), now
	}
	return c.value
}
