// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path"
	"regexp"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/client-go/rest"

	"github.com/egressd/egressd/policy/source/kube"
)

// simulateVerb lets this program be many nodes, in a process of its own.
const simulateVerb = "simulate"

// Kinds of nodes.
const (
	// sources are what egressd run has: the informer of policy/source/kube.
	sources = "egressd"
	// informers are client-go's, with its defaults before streamed lists.
	informers = "list+watch"
)

// crowd says which nodes are simulated, on a line of the process's input.
type crowd struct {
	Host, Token string
	CA          []byte
	Kind        string
	Count       int
	Spread      time.Duration
	Profile     string
}

// tally is what the nodes have done, printed for each further line of input.
type tally struct {
	Synced int
	// Took are the times from the start until all was read, of those that have.
	Took []time.Duration
	// Requests are counted by their kind; Seconds are how many began to read all
	// objects of a kind in each second since the start.
	Requests map[string]int
	Seconds  []int
	Refused  int // 429
	Received int64
	RSS      float64 // MiB
}

// node is one that is simulated.
type node interface {
	// Run watches until ctx ends.
	Run(ctx context.Context) error
	// Await waits until everything has been read.
	Await(ctx context.Context) error
}

// egress is a node with egressd.
type egress struct{ *kube.Informer }

func (e egress) Run(ctx context.Context) error { return e.Informer.Run(ctx, func() { e.Files() }) }

func (e egress) Await(ctx context.Context) error { return e.Informer.Await(ctx, time.Hour) }

// simulate is the process of the nodes.
func simulate([]string) error {
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, mib)
	if !in.Scan() {
		return in.Err()
	}
	var c crowd
	if err := json.Unmarshal(in.Bytes(), &c); err != nil {
		return err
	}
	w := &watcher{start: time.Now(), requests: map[string]int{}}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	defer func() { cancel(); running.Wait() }()
	for i := range c.Count {
		n, err := c.node(w, i)
		if err != nil {
			return err
		}
		running.Go(func() {
			if err := n.Run(ctx); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		})
		running.Go(func() {
			if n.Await(ctx) == nil {
				w.synced()
			}
		})
	}
	out := json.NewEncoder(os.Stdout)
	for in.Scan() {
		if in.Text() == "collect" {
			debug.FreeOSMemory()
			if err := c.profile(); err != nil {
				return err
			}
		}
		if err := out.Encode(w.tally()); err != nil {
			return err
		}
	}
	return in.Err()
}

func (c crowd) profile() error {
	if c.Profile == "" {
		return nil
	}
	f, err := os.Create(c.Profile)
	if err != nil {
		return err
	}
	runtime.GC()
	return errors.Join(pprof.WriteHeapProfile(f), f.Close())
}

// node makes one, with a connection of its own.
func (c crowd) node(w *watcher, i int) (node, error) {
	config := &rest.Config{Host: c.Host, BearerToken: c.Token, TLSClientConfig: rest.TLSClientConfig{CAData: c.CA}}
	var d net.Dialer
	config.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := d.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &counted{conn, &w.received}, nil
	}
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return &counter{next, w} })
	name := fmt.Sprintf("node-%d", i+1)
	if c.Kind == informers {
		return newPlain(config, name)
	}
	s, err := kube.New(kube.Options{Config: config, Node: name, FindCluster: true, Spread: c.Spread})
	return egress{s}, err
}

// counted is a connection whose bytes are counted.
type counted struct {
	net.Conn
	received *atomic.Int64
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.received.Add(int64(n))
	return n, err
}

// counter counts requests.
type counter struct {
	next http.RoundTripper
	to   *watcher
}

func (c *counter) RoundTrip(r *http.Request) (*http.Response, error) {
	c.to.request(kindOf(r))
	res, err := c.next.RoundTrip(r)
	if err == nil && res.StatusCode == http.StatusTooManyRequests {
		c.to.refuse()
	}
	return res, err
}

// WrappedRoundTripper lets client-go find the transport.
func (c *counter) WrappedRoundTripper() http.RoundTripper { return c.next }

var groupVersion = regexp.MustCompile(`^v[0-9]+((alpha|beta)[0-9]+)?$`)

// kindOf is what a request asks for.
func kindOf(r *http.Request) string {
	switch q := r.URL.Query(); {
	case q.Get("sendInitialEvents") == "true":
		return "WATCHLIST"
	case q.Get("watch") != "":
		return "WATCH"
	case groupVersion.MatchString(path.Base(r.URL.Path)):
		return "discovery"
	}
	return "LIST"
}

// watcher sees what all nodes of the process do.
type watcher struct {
	start    time.Time
	received atomic.Int64

	mu       sync.Mutex
	requests map[string]int
	seconds  []int
	refused  int
	took     []time.Duration
}

func (w *watcher) request(kind string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.requests[kind]++
	if kind != "LIST" && kind != "WATCHLIST" {
		return
	}
	at := int(time.Since(w.start).Seconds())
	for len(w.seconds) <= at {
		w.seconds = append(w.seconds, 0)
	}
	w.seconds[at]++
}

func (w *watcher) refuse() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refused++
}

func (w *watcher) synced() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.took = append(w.took, time.Since(w.start))
}

func (w *watcher) tally() tally {
	w.mu.Lock()
	defer w.mu.Unlock()
	return tally{
		Synced: len(w.took), Took: w.took, Requests: w.requests, Seconds: w.seconds, Refused: w.refused,
		Received: w.received.Load(), RSS: residentOf(os.Getpid(), "VmRSS"),
	}
}

// residentOf is a figure of a process's status, in MiB.
func residentOf(pid int, what string) float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(text), "\n"+what+":")
	var kib float64
	_, _ = fmt.Sscan(rest, &kib) // 0 says that it is not there
	return kib / 1024
}

// nodes is the process of simulated nodes, as its parent sees it.
type nodes struct {
	crowd crowd
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   *json.Decoder
}

// simulated starts nodes.
func (c crowd) simulated(ctx context.Context) (*nodes, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	n := &nodes{crowd: c, cmd: exec.CommandContext(ctx, self, simulateVerb)}
	n.cmd.Stderr = os.Stderr
	if n.in, err = n.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := n.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	n.out = json.NewDecoder(out)
	if err := n.cmd.Start(); err != nil {
		return nil, err
	}
	return n, json.NewEncoder(n.in).Encode(c)
}

// ask says what the nodes have done; "collect" has them return memory first.
func (n *nodes) ask(how string) (t tally, err error) {
	if _, err := fmt.Fprintln(n.in, how); err != nil {
		return t, err
	}
	return t, n.out.Decode(&t)
}

// await waits until a tally is as it should be.
func (n *nodes) await(ctx context.Context, ok func(tally) bool) (tally, error) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		t, err := n.ask("")
		if err != nil || ok(t) {
			return t, err
		}
		select {
		case <-ctx.Done():
			return t, fmt.Errorf("after %d of %d nodes: %w", t.Synced, n.crowd.Count, ctx.Err())
		case <-tick.C:
		}
	}
}

// end ends the nodes.
func (n *nodes) end() error {
	return errors.Join(n.in.Close(), n.cmd.Process.Kill(), ignore(n.cmd.Wait()))
}

// ignore is for the end of a process that was killed.
func ignore(error) error { return nil }
