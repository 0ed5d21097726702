// SPDX-License-Identifier: Apache-2.0

package earlier

import (
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"testing"

	"github.com/egressd/egressd/agent/workload"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/sockdiag"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio"
)

// kernel notes what it is asked to end.
type kernel struct {
	Datapath
	ended []netip.AddrPort
	err   error
}

func (k *kernel) Destroy(s sockdiag.Socket, _ int, _ func() ([]int, error)) error {
	k.ended = append(k.ended, s.Dst)
	return k.err
}

type noNames struct{}

func (noNames) NamesOf(policy.PolicyID, netip.Addr) []string { return nil }

type sink struct{ events []flow.Event }

func (s *sink) Record(e *flow.Event) { s.events = append(s.events, *e) }

// TestJudgeEarlier: what its address alone allows goes on, and the rest is ended and
// told; in audit mode it is told only, and what could not be ended is not said to be.
func TestJudgeEarlier(t *testing.T) {
	config, findings := istio.Load([]istio.File{{Name: "p.yaml", Data: []byte(`
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: db, namespace: default}
spec:
  hosts: [db.example]
  addresses: [192.0.2.1/32, "2001:db8::1/128"]
  ports: [{number: 5432, name: tcp, protocol: TCP}]
  resolution: NONE
  location: MESH_EXTERNAL
`)}}, istio.Options{})
	if config == nil {
		t.Fatal(findings)
	}
	s, err := new(policy.Snapshot).Update(config)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		dst         string
		mode        policy.Mode
		err         error
		ended, told bool
	}{
		{"192.0.2.1:5432", policy.Enforce, nil, false, false},
		{"[2001:db8::1]:5432", policy.Enforce, nil, false, false},
		{"192.0.2.1:22", policy.Enforce, nil, true, true},
		{"[2001:db8::1]:22", policy.Enforce, nil, true, true},
		{"192.0.2.1:22", policy.Audit, nil, false, true},
		{"192.0.2.1:22", policy.Off, nil, false, false},
		{"192.0.2.1:22", policy.Enforce, errors.New("failed"), true, false},
	} {
		k, told := &kernel{err: c.err}, &sink{}
		e := New(Options{Datapath: k, Policies: s, Names: noNames{}, Sink: told, Log: slog.New(slog.DiscardHandler)})
		w := workload.Bound{WorkloadState: loader.WorkloadState{ID: workload.Node, Policy: policy.DefaultPolicy, Mode: c.mode}, Name: "node"}
		dst := netip.MustParseAddrPort(c.dst)
		e.recheck(w, sockdiag.Socket{Transport: policy.TCP, Dst: dst})
		if slices.Contains(k.ended, dst) != c.ended || (len(told.events) == 1) != c.told {
			t.Errorf("%+v: ended %v, told %+v", c, k.ended, told.events)
		}
		if c.told && (told.events[0].WouldDeny != (c.mode == policy.Audit) || told.events[0].Workload != "node") {
			t.Errorf("%+v: %+v", c, told.events[0])
		}
	}
}
