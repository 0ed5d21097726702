// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/egressd/egressd/agent/admin"
	"github.com/egressd/egressd/explain"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/quote"
	"github.com/egressd/egressd/internal/top/screen"
)

// eachEvent calls f for each event of an answer.
func eachEvent(data []byte, f func(flow.Event)) error {
	for dec := json.NewDecoder(bytes.NewReader(data)); ; {
		var e flow.Event
		if err := dec.Decode(&e); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return told(err)
		}
		f(e)
	}
}

// topReader reads events for the screen.
type topReader struct {
	daemon client
	query  url.Values
	// tell waits until the screen has taken a message. Until then nothing is read: a
	// daemon that is faster says what was lost.
	tell func(tea.Msg)
}

// follow reads from a body, and when it ends from the next daemon, until ctx is done.
func (r *topReader) follow(ctx context.Context, body io.ReadCloser) {
	tick := time.NewTicker(askAgain)
	defer tick.Stop()
	for ctx.Err() == nil {
		if body != nil {
			r.tell(screen.Connected{})
			err := r.read(body)
			body.Close()
			r.tell(screen.Gone{Err: err})
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		var err error
		if body, err = r.daemon.follow(ctx, admin.PathFlows, r.query); err != nil {
			body = nil
			r.tell(screen.Gone{Err: err})
		}
	}
}

// batchSize is how many events are given to the screen at a time.
const batchSize = 1024

// read reads until the body ends, and says why that is.
func (r *topReader) read(body io.Reader) error {
	in := bufio.NewReaderSize(body, 64<<10)
	var batch screen.Batch
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return errors.New("it has ended, or this reader was too slow for it; connecting again")
		}
		var e flow.Event
		if err := json.Unmarshal(line, &e); err != nil {
			return told(err)
		}
		batch = append(batch, e)
		if in.Buffered() == 0 || len(batch) >= batchSize {
			r.tell(batch)
			batch = nil
		}
	}
}

// explainFlow is the newest event of a kind of flow, what the policy says of such flows
// now, and what would allow them.
func explainFlow(ctx context.Context, daemon client, e flow.Event) string {
	var b strings.Builder
	printLine(&b, "The newest one: %s", eventLine(e))
	b.WriteString("\n")
	if e.Layer == flow.Ingress {
		b.WriteString("It came in by a Gateway. What is explained are flows on their way out.\n")
		return b.String()
	}
	q, note := questionOf(e)
	if q == nil {
		b.WriteString(note)
		return b.String()
	}
	b.WriteString(note)
	body, err := daemon.ask(ctx, http.MethodGet, explain.Path, q)
	var x explain.Explanation
	if err == nil {
		err = json.Unmarshal(body, &x)
	}
	if err != nil {
		printLine(&b, "It cannot be explained: %v", err)
		return b.String()
	}
	printExplanation(&b, x)
	if x.Allowed && !e.Allowed {
		b.WriteString("\nThe policy, or what is known of the name, has changed since: such a flow is allowed now, or it was denied for what it said (its SNI, its Host).\n")
	}
	if x.Suggestion != "" {
		fmt.Fprintf(&b, "\nPut it into a file of the policy, and the daemon takes it over. \"egressd suggest\" prints all that would be needed.\n")
	}
	return b.String()
}

// questionOf is what to ask about flows like that of an event, as "egressd explain"
// does; nil: nothing, as the note says.
func questionOf(e flow.Event) (q url.Values, note string) {
	host, port := e.Name, e.Dst.Port()
	if name, p, err := net.SplitHostPort(host); err == nil { // of an HTTP request
		host = name
		if n, err := strconv.ParseUint(p, 10, 16); err == nil {
			port = uint16(n)
		}
	}
	if host == "" && e.Dst.IsValid() {
		host = e.Dst.Addr().String()
	}
	if e.Kind == flow.Query {
		port, note = 443, "The port is not known when a name is asked for: what follows is for TCP port 443.\n\n"
	}
	switch {
	case host == "":
		return nil, "Neither a name nor an address is known that could be explained.\n"
	case port == 0:
		return nil, "It has no port, and ServiceEntries allow TCP and UDP: nothing can be explained or suggested.\n"
	}
	target := net.JoinHostPort(host, strconv.Itoa(int(port)))
	switch {
	case e.Method != "":
		target = (&url.URL{Scheme: "http", Host: target, Path: e.Path}).String()
	case e.Proto == "udp":
		target += "/udp"
	}
	q = url.Values{"target": {target}, "method": {e.Method}}
	if strings.Contains(e.Workload, "/") { // one that somebody described
		q.Set("workload", e.Workload)
	}
	if a, err := netip.ParseAddr(host); err == nil && a.IsUnspecified() {
		return nil, quote.Line(target) + " is no destination.\n"
	}
	return q, note
}
