// SPDX-License-Identifier: Apache-2.0

package logpipe_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/logpipe"
	"github.com/egressd/egressd/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

const patience = 10 * time.Second

func lost(n uint64) []byte { return fmt.Appendf(nil, "lost %d\n", n) }

// gate is a writer that takes nothing until it is opened.
type gate struct {
	open chan struct{}
	mu   sync.Mutex
	got  bytes.Buffer
}

func (g *gate) Write(b []byte) (int, error) {
	<-g.open
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.got.Write(b)
}

func (g *gate) text() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.got.String()
}

func TestInOrder(t *testing.T) {
	var got bytes.Buffer
	p := logpipe.New(&got, 1<<20, lost)
	var want strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&want, "line %d\n", i)
		fmt.Fprintf(p, "line %d\n", i)
	}
	p.Close(patience)
	if got.String() != want.String() || p.Dropped() != 0 {
		t.Errorf("%d bytes came of %d, %d records were dropped", got.Len(), want.Len(), p.Dropped())
	}
}

// TestStalled: who writes goes on, what there is no room for is counted, and the
// log says so at its place.
func TestStalled(t *testing.T) {
	g := &gate{open: make(chan struct{})}
	p := logpipe.New(g, 30, lost)
	for range 10 {
		if n, err := io.WriteString(p, "0123456789"); n != 10 || err != nil {
			t.Fatalf("%d, %v", n, err)
		}
	}
	if p.Dropped() != 7 {
		t.Errorf("%d records were dropped, want 7", p.Dropped())
	}
	p.Close(0) // does not wait for who takes nothing
	close(g.open)
	p.Close(patience)
	if want := strings.Repeat("0123456789", 3) + "lost 7\n"; g.got.String() != want {
		t.Errorf("%q came, want %q", g.got.String(), want)
	}
	_, _ = io.WriteString(p, "late")
	if p.Dropped() != 8 {
		t.Errorf("a record behind the end: %d were dropped", p.Dropped())
	}
}

// TestTakesAgain: the number comes as soon as records are taken again, once, and
// although nothing more is logged.
func TestTakesAgain(t *testing.T) {
	g := &gate{open: make(chan struct{})}
	p := logpipe.New(g, 30, lost)
	defer p.Close(patience)
	for range 10 {
		_, _ = io.WriteString(p, "0123456789")
	}
	close(g.open)
	p.Flush(patience)
	if want := strings.Repeat("0123456789", 3) + "lost 7\n"; g.text() != want {
		t.Errorf("%q came, want %q", g.text(), want)
	}
	_, _ = io.WriteString(p, "more")
	p.Flush(patience)
	if got := g.text(); !strings.HasSuffix(got, "lost 7\nmore") {
		t.Errorf("%q came", got)
	}
}

// TestFlushWaitsNotForEver: who takes nothing holds nobody.
func TestFlushWaitsNotForEver(t *testing.T) {
	g := &gate{open: make(chan struct{})}
	p := logpipe.New(g, 30, lost)
	_, _ = io.WriteString(p, "x")
	began := time.Now()
	p.Flush(50 * time.Millisecond)
	if took := time.Since(began); took < 50*time.Millisecond || took > patience {
		t.Errorf("it took %v", took)
	}
	close(g.open)
	p.Close(patience)
	if g.text() != "x" {
		t.Errorf("%q came", g.text())
	}
}

// broken fails a few times.
type broken struct {
	fails int
	got   bytes.Buffer
}

func (b *broken) Write(p []byte) (int, error) {
	if b.fails > 0 {
		b.fails--
		return 0, errors.New("broken pipe")
	}
	return b.got.Write(p)
}

// TestBroken: a writer that fails is tried again with what comes next, and what
// it did not take is told then, all of it.
func TestBroken(t *testing.T) {
	b := &broken{fails: 4}
	p := logpipe.New(b, 1<<20, lost)
	for range 4 {
		_, _ = io.WriteString(p, "x\n")
		p.Flush(patience) // the records one by one: the number fails as well
	}
	_, _ = io.WriteString(p, "y\n")
	p.Close(patience)
	// Of the four failures two were of the number, which is not lost with them.
	if want := "x\nlost 2\nx\ny\n"; p.Dropped() != 2 || b.got.String() != want {
		t.Errorf("%d records were dropped, and %q came, want %q", p.Dropped(), b.got.String(), want)
	}
}

// TestPipe: a pipe that is full holds nobody.
func TestPipe(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p := logpipe.New(w, 1<<20, lost)
	record := bytes.Repeat([]byte("x"), 1000)
	for range 5000 { // a pipe takes 64 KB
		_, _ = p.Write(record)
	}
	if p.Dropped() == 0 {
		t.Error("nothing was dropped")
	}
	r.Close() // EPIPE ends the goroutine's write
	p.Close(patience)
	w.Close()
}
