// SPDX-License-Identifier: Apache-2.0

package main

import (
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
		err = socketOptions(&agent.Options{AllowEndpoints: []policy.AllowedEndpoint{e}}, "", tt.kubernetes)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}
