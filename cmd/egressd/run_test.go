// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/egressd/egressd/agent"
	"github.com/egressd/egressd/policy"
)

// TestSocketOptions: policies lead to unix sockets where they are files of the node
// alone; who writes objects of an API server is not the node's operator.
func TestSocketOptions(t *testing.T) {
	for _, tt := range []struct {
		name, allow string
		kubernetes  bool
		want        string // "": none
	}{
		{"a path", "unix:///run/app.sock", true, "--allow-endpoint unix:///run/app.sock cannot be used with --kubernetes"},
		{"an abstract name", "unix://@app", true, "--allow-endpoint unix://@app cannot be used with --kubernetes"},
		{"an address", "127.0.0.1:8080", true, ""},
		{"a path, without an API server", "unix:///run/app.sock", false, ""},
		{"an abstract name, without an API server", "unix://@app", false, ""},
	} {
		e, err := policy.ParseAllowedEndpoint(tt.allow)
		if err != nil {
			t.Fatal(err)
		}
		err = socketOptions(&agent.Options{AllowEndpoints: []policy.AllowedEndpoint{e}}, agent.DefaultStateDir, "", tt.kubernetes)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

// TestSocketPaths: a directory whose sockets the kernel would not take is told of before
// anything is done, with what is too long, by how much, and what to do; the longest that
// it takes is taken.
func TestSocketPaths(t *testing.T) {
	fits := "/" + strings.Repeat("s", 92) // and "/takeover.sock"
	gates := "/" + strings.Repeat("g", 104)
	for _, tt := range []struct{ state, gateways, want string }{
		{fits, gates, ""},
		{fits + "s", "", fits + "s/takeover.sock has 108 bytes, 1 too many: the kernel takes no path of a unix socket with more than 107 (unix(7)); choose a shorter --state-dir"},
		{fits + "/more", "", "112 bytes, 5 too many"},
		{fits, gates + "g", "--gateway-socket-dir: no socket could be in it"},
	} {
		err := socketOptions(&agent.Options{}, tt.state, tt.gateways, false)
		if (err == nil) != (tt.want == "") || err != nil && (!strings.Contains(err.Error(), tt.want) || !errors.As(err, new(usageError))) {
			t.Errorf("%s, %s: %v, want %q", tt.state, tt.gateways, err, tt.want)
		}
	}
	for _, verb := range [][]string{{"status"}, {"flows"}, {"reload"}, {"explain", "example.com:443"}} {
		got := call(t, append(verb, "--state-dir", fits+"s")...)
		if got.code != exitUsage || !strings.Contains(got.stderr, "no daemon can run there") || !strings.Contains(got.stderr, "choose a shorter --state-dir") {
			t.Errorf("%v: %d, %s", verb, got.code, got.stderr)
		}
	}
}
