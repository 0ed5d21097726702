// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"slices"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/privilege"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
)

// confined is what starts a program as a container does that has the capabilities
// and no others, and can get no more.
func confined(capabilities []privilege.Capability) []string {
	bounds := "-all"
	for _, c := range capabilities {
		bounds += ",+" + strings.ToLower(strings.TrimPrefix(c.Name, "CAP_"))
	}
	return []string{"setpriv", "--no-new-privs", "--inh-caps", "-all", "--bounding-set", bounds, "--"}
}

// TestCapabilities: with the documented capabilities, and no others, the daemon
// captures, also with a kernel part that is there already. TestPods and TestFollowName
// show with the same ones what is done in other network namespaces and for cgroups that
// are captured by name. Without one of them it does not start, and says which and what for.
func TestCapabilities(t *testing.T) {
	t.Parallel()
	testenv.RequireTool(t, "setpriv")
	needed := privilege.Needed(false)
	n := prepare(t, map[string]string{"policy.yaml": tcp("tcp", world.API, "7")}, nil)
	for i, c := range needed {
		n.d.Prefix = confined(slices.Delete(slices.Clone(needed), i, i+1))
		n.startFails(t, "3", saysOpen, "has not the capabilities "+c.Name+". ", c.Name+" to "+c.For)
		n.wholly(t, "without "+c.Name, true)
	}
	n.d.Prefix = confined(needed)
	for _, when := range []string{"first start", "after a kill"} {
		if err := n.d.Start(t.Context()); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		n.learn(t, world.API)
		if p := n.probe(t, n.in, "dial", n.Echo.Addr.String()); p.Error != "" {
			t.Errorf("%s: what is allowed: %v", when, p.Error)
		}
		n.wholly(t, when, false)
		_ = n.d.Kill() // the error says that it was killed
		n.wholly(t, when+", killed", false)
	}
	// What is in force stays so when a start lacks something.
	n.d.Prefix = confined(needed[1:])
	n.startFails(t, "4", needed[0].Name)
	n.wholly(t, "a start without "+needed[0].Name, false)
	n.d.Prefix = confined(needed)
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestGatewayCapability: a daemon with listeners for Gateways needs one more.
func TestGatewayCapability(t *testing.T) {
	t.Parallel()
	testenv.RequireTool(t, "setpriv")
	n := prepare(t, seed(t, "bookinfo-gateway.yaml"), nil, "--gateway-selector", "istio=ingressgateway")
	n.d.Prefix = confined(privilege.Needed(false))
	n.startFails(t, "3", saysOpen, "CAP_NET_BIND_SERVICE to listen")
	n.d.Prefix = confined(privilege.Needed(true))
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}
