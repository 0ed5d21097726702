// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"strings"
	"testing"

	"github.com/egressd/egressd/agent/control"
	"github.com/egressd/egressd/agent/kubernetes"
	"github.com/egressd/egressd/policy/source"
)

// TestAdminAddress: the admin interface is nowhere by default, and on the
// network only where that is insisted on.
func TestAdminAddress(t *testing.T) {
	for _, c := range []struct {
		address string
		remote  bool
		port    uint16
		want    string // in the error
	}{
		{"", false, 0, ""},
		{"localhost:15000", false, 15000, ""}, {"127.0.0.1:9", false, 9, ""}, {"[::1]:15000", false, 15000, ""},
		{":15000", false, 0, "--admin-remote"}, {"0.0.0.0:15000", false, 0, "--admin-remote"},
		{"192.0.2.1:15000", false, 0, "--admin-remote"}, {"[2001:db8::1]:15000", false, 0, "--admin-remote"},
		{":15000", true, 15000, ""}, {"[2001:db8::1]:15000", true, 15000, ""},
		{"15000", true, 0, "is not ADDRESS:PORT"}, {"node.example:15000", true, 0, "write the address itself"},
	} {
		o := Options{AdminAddress: c.address, AdminRemote: c.remote}
		err := o.validateAdmin()
		switch {
		case c.want != "":
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%q: %v, want %q", c.address, err, c.want)
			}
		case err != nil || o.adminPort() != c.port:
			t.Errorf("%q: %v, port %d", c.address, err, o.adminPort())
		}
	}
}

// TestLastGoodIsKept: a daemon that reads no policy keeps none, and leaves that of
// another daemon.
func TestLastGoodIsKept(t *testing.T) {
	for _, c := range []struct {
		o       Options
		objects control.Objects
		want    string
	}{
		{Options{LastGood: "f"}, nil, ""},
		{Options{LastGood: "f", Config: []string{"x"}}, nil, "f"},
		{Options{LastGood: "f", Allow: source.Allow{Items: []string{"x"}}}, nil, "f"},
		{Options{LastGood: "f"}, &kubernetes.APIServer{}, "f"},
	} {
		if got := c.o.control(c.objects, nil).LastGood; got != c.want {
			t.Errorf("%+v: %q", c.o.Config, got)
		}
	}
}
