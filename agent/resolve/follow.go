// SPDX-License-Identifier: Apache-2.0

// Package resolve knows how this node has names resolved: the servers of its
// resolv.conf, which processes such servers are, and the ways around DNS.
package resolve

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/egressd/egressd/dnsproxy"
	"github.com/egressd/egressd/policy/source"
)

// Options of a Follower.
type Options struct {
	// Files are those of the node, as in dnsproxy.NodeFiles.
	Files []string
	// Given are the operator's: they come first.
	Given dnsproxy.Upstreams
	// None accepts that there is no server at all.
	None bool
	// Loops says whether a server is egressd itself.
	Loops func(netip.AddrPort) bool
	Log   *slog.Logger
}

// Follower follows how the node resolves names: the servers, search suffixes and
// times of its resolv.conf, for as far as the options don't say them.
type Follower struct {
	log   *slog.Logger
	files []string
	// given are the options: they come first.
	given dnsproxy.Upstreams
	// loops says whether a server is egressd itself.
	loops   func(netip.AddrPort) bool
	watcher *source.Watcher

	mu  sync.Mutex
	now dnsproxy.Upstreams
	err string // what was wrong with the files
}

// Follow starts watching the files and reads them. The Follower's Run must follow,
// or its Stop.
func Follow(o Options) (*Follower, error) {
	n := &Follower{log: o.Log, files: o.Files, loops: o.Loops, given: o.Given}
	for _, s := range o.Given.Servers {
		if n.loops(s) {
			return nil, fmt.Errorf("--dns-server %s is egressd's own listener; name a server that resolves", s)
		}
	}
	n.watcher = source.NewWatcher(o.Files, o.Log)
	now, err := n.look()
	if err != nil {
		if len(now.Servers) == 0 && !o.None {
			n.Stop()
			return nil, err
		}
		o.Log.Warn("some of the node's resolver configuration cannot be used; the rest is used", "error", err)
	}
	n.now = now
	return n, nil
}

// errNoServer: resolv.conf names none.
var errNoServer = errors.New("no DNS server in /etc/resolv.conf; give one with --dns-server, or start again when the node has one")

// look reads the files. With an error, what could be read is returned as well.
func (n *Follower) look() (dnsproxy.Upstreams, error) {
	u, err := dnsproxy.ReadNode(n.files)
	u.Timeout = cmp.Or(n.given.Timeout, u.Timeout)
	u.Attempts = cmp.Or(n.given.Attempts, u.Attempts)
	if len(n.given.Servers) > 0 {
		u.Servers = n.given.Servers
		return u, err
	}
	u.Servers = slices.DeleteFunc(u.Servers, func(s netip.AddrPort) bool {
		loop := n.loops(s)
		if loop {
			err = errors.Join(err, fmt.Errorf("server %s is egressd's own listener and is left out", s))
		}
		return loop
	})
	if len(u.Servers) == 0 {
		err = errors.Join(err, errNoServer)
	}
	return u, err
}

// Current is how names are resolved now.
func (n *Follower) Current() dnsproxy.Upstreams {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.now
}

// Read reads the files again, and gives apply what is new. Files without a
// server, or with errors, leave what was there before.
func (n *Follower) Read(apply func(dnsproxy.Upstreams)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	u, err := n.look()
	if err != nil {
		if n.err != err.Error() {
			n.log.Warn("the node's resolver configuration cannot be used; the servers from before are asked until it is corrected",
				"error", err, "servers", serverList(n.now.Servers))
		}
		n.err = err.Error()
		return
	}
	mended := n.err != ""
	n.err = ""
	switch {
	case !reflect.DeepEqual(u, n.now):
		n.log.Info("the node's resolver configuration has changed and is in use", "servers", serverList(u.Servers), "search", u.Search)
		n.now = u
		apply(u)
	case mended:
		n.log.Info("the node's resolver configuration is good again, and as it was", "servers", serverList(u.Servers))
	}
}

// Run follows the files until ctx ends.
func (n *Follower) Run(ctx context.Context, apply func(dnsproxy.Upstreams)) {
	n.watcher.Run(ctx, func() { n.Read(apply) })
}

// Stop releases the watch of one that does not run.
func (n *Follower) Stop() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	n.watcher.Run(ctx, func() {})
}

func serverList(servers []netip.AddrPort) string {
	out := make([]string, len(servers))
	for i, s := range servers {
		out[i] = s.String()
	}
	return strings.Join(out, ", ")
}

// Degraded says in words which servers are down, and what that means; "":
// none is. It makes egressd no less ready: what goes straight goes on, and so
// does what is open.
func Degraded(servers []dnsproxy.UpstreamStatus) string {
	var down []string
	for _, s := range servers {
		if s.State == "down" {
			down = append(down, s.Server)
		}
	}
	switch len(down) {
	case 0:
		return ""
	case len(servers):
		return "no DNS server answers: hosts that the policy names exactly have their last answer for a while, other names fail"
	}
	return fmt.Sprintf("%d of %d DNS servers do not answer (%s); the others are asked", len(down), len(servers), strings.Join(down, ", "))
}
