// SPDX-License-Identifier: Apache-2.0

package kubestatus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	core "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttest "k8s.io/client-go/testing"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/policy"
)

// node has the pods whose names do not begin with "no".
type node struct{}

func (node) UID(namespace, name string) (types.UID, bool) {
	return types.UID(namespace + "-" + name), !strings.HasPrefix(name, "no")
}

// desk is an Events with a fake API server, and a clock of its own.
type desk struct {
	*Events
	t   *testing.T
	api *fake.Clientset
	now time.Time
}

func newDesk(t *testing.T) *desk {
	d := &desk{t: t, api: fake.NewClientset(), now: time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)}
	d.Events = NewEvents(EventsOptions{Client: d.api.EventsV1(), Node: "node1", Pods: node{}, Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return d.now }})
	return d
}

func (d *desk) deny(e flow.Event) { d.denied(d.t.Context(), &e) }

func (d *desk) list() []eventsv1.Event {
	d.t.Helper()
	l, err := d.api.EventsV1().Events("").List(d.t.Context(), meta.ListOptions{})
	if err != nil {
		d.t.Fatal(err)
	}
	return l.Items
}

func denial(workload, name, dst string) flow.Event {
	return flow.Event{
		Workload: workload, Kind: flow.Decision, Layer: flow.Kernel, Dst: netip.MustParseAddrPort(dst), Name: name, Transport: policy.TCP,
		Reason: policy.ReasonNoRule, Process: flow.Process{PID: 7, Command: "curl"},
	}
}

// TestFirstDenial: it is an Event of the pod that says what, why, and what to do;
// those that follow are a number of it.
func TestFirstDenial(t *testing.T) {
	d := newDesk(t)
	e := denial("shop/web", "api.example.com", "192.0.2.1:443")
	e.Rule = &policy.Ref{Kind: "ServiceEntry", Namespace: "shop", Name: "other", File: "kubernetes:x", Line: 3}
	d.deny(e)
	got := d.list()
	if len(got) != 1 {
		t.Fatalf("%d Events", len(got))
	}
	v := got[0]
	want := core.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: "shop", Name: "web", UID: "shop-web"}
	if v.Regarding != want || v.Namespace != "shop" || v.Reason != "EgressDenied" || v.Type != "Warning" || v.Action != "Connect" ||
		v.ReportingController != "egressd.dev/egressd" || v.ReportingInstance != "node1" || v.Series != nil {
		t.Errorf("%+v", v)
	}
	const text = `The connection of curl to api.example.com:443/tcp was denied: no ServiceEntry that counts for this pod has the destination (no-rule).` +
		` The nearest rule is ServiceEntry shop/other. To allow it, apply a ServiceEntry with host api.example.com and port 443 in namespace shop;` +
		` "egressd explain --pod shop/web api.example.com:443" on node node1 writes it.`
	if v.Note != text {
		t.Errorf("got  %s\nwant %s", v.Note, text)
	}
	// Another address of the name, another process: the same Event.
	e.Dst, e.Process.Command, e.More = netip.MustParseAddrPort("[2001:db8::1]:443"), "wget", 41
	d.deny(e)
	d.now = d.now.Add(repeatEvery - 1)
	d.flush(t.Context())
	if got := d.list(); len(got) != 1 || got[0].Series != nil {
		t.Fatalf("%d Events, %+v", len(got), got[0].Series)
	}
	d.now = d.now.Add(1)
	d.flush(t.Context())
	if got := d.list(); got[0].Series == nil || got[0].Series.Count != 42 {
		t.Errorf("%+v", got[0].Series)
	}
	if s := d.Stats(); s.Written != 1 || s.Repeated != 1 || s.Folded+s.Dropped+s.Failed+s.NoPod != 0 {
		t.Errorf("%+v", s)
	}
}

// TestTold: what is denied in other ways has its own words, and fits.
func TestTold(t *testing.T) {
	query := flow.Event{Workload: "shop/web", Kind: flow.Query, Name: "api.example.com", Reason: policy.ReasonName}
	audit := denial("shop/web", "", "192.0.2.1:443")
	audit.Allowed, audit.WouldDeny = true, true
	udp := denial("shop/web", "", "[2001:db8::1]:123")
	udp.Transport, udp.Reason = policy.UDP, policy.ReasonTransport
	request := flow.Event{Workload: "shop/web", Kind: flow.Request, Name: "api.example.com", Dst: netip.MustParseAddrPort("192.0.2.1:80"), Transport: policy.TCP, Reason: policy.ReasonAuthorization}
	hostile := denial("shop/web", strings.Repeat("ü\n\x1b[31m", 400), "192.0.2.1:443")
	for _, c := range []struct {
		e            flow.Event
		reason, kind string
		has          []string
	}{
		{query, ReasonDenied, "Warning", []string{"The DNS query of a process for api.example.com was denied: no ServiceEntry that counts for this pod has the host", `explain --pod shop/web api.example.com:443"`}},
		{audit, ReasonWouldDeny, "Normal", []string{"The connection of curl to 192.0.2.1:443/tcp would be denied (mode audit; it went on)", "with address 192.0.2.1 and port 443"}},
		{udp, ReasonDenied, "Warning", []string{"[2001:db8::1]:123/udp", `explain --pod shop/web [2001:db8::1]:123/udp"`, "add the port"}},
		{request, ReasonDenied, "Warning", []string{"The HTTP request of a process to api.example.com:80/tcp was denied: an AuthorizationPolicy denies it", "change that rule"}},
		{hostile, ReasonDenied, "Warning", []string{`\n\x1b[31m`, "…"}},
	} {
		d := newDesk(t)
		d.deny(c.e)
		got := d.list()
		if len(got) != 1 {
			t.Errorf("%v: %d Events", c.has, len(got))
			continue
		}
		v := got[0]
		for _, s := range c.has {
			if !strings.Contains(v.Note, s) {
				t.Errorf("%q does not say %q", v.Note, s)
			}
		}
		if v.Reason != c.reason || v.Type != c.kind || len(v.Note) > maxNote || !utf8.ValidString(v.Note) || strings.ContainsAny(v.Note, "\n\x1b") {
			t.Errorf("%d bytes, %+v", len(v.Note), v)
		}
	}
}

// TestFlood: a pod that is denied everything has few Events, one of which counts
// the rest; another pod has its own all the same, and little is remembered.
func TestFlood(t *testing.T) {
	const many = 20000
	d := newDesk(t)
	for i := range many {
		d.deny(denial("shop/loud", fmt.Sprintf("h%d.example.com", i), "192.0.2.1:443"))
	}
	d.deny(denial("shop/quiet", "api.example.com", "192.0.2.1:443"))
	got := d.list()
	if len(got) != podBurst+2 {
		t.Errorf("%d Events", len(got))
	}
	if s := d.Stats(); s.Folded != many-podBurst || len(d.table.said) != podBurst+2 {
		t.Errorf("%+v, %d remembered", s, len(d.table.said))
	}
	d.now = d.now.Add(repeatEvery)
	d.flush(t.Context())
	rest := 0
	for _, v := range d.list() {
		if strings.Contains(v.Note, "too many for an Event each") && v.Regarding.Name == "loud" {
			rest = int(v.Series.Count)
		}
	}
	if rest != many-podBurst {
		t.Errorf("the rest is %d, want %d", rest, many-podBurst)
	}
	d.now = d.now.Add(saidForgotten)
	d.flush(t.Context())
	if len(d.table.said)+len(d.table.pods) != 0 {
		t.Errorf("%d and %d are remembered", len(d.table.said), len(d.table.pods))
	}
}

// TestFloodOfPods: many pods together are bounded as well.
func TestFloodOfPods(t *testing.T) {
	const pods = 500
	d := newDesk(t)
	for p := range pods {
		for i := range 20 {
			d.deny(denial(fmt.Sprintf("shop/p%d", p), fmt.Sprintf("h%d.example.com", i), "192.0.2.1:443"))
		}
	}
	// Each pod that got less than it wanted has one that says so.
	if got := len(d.list()); got > nodeBurst+pods || got < pods {
		t.Errorf("%d Events", got)
	}
}

// TestNoPod: what is no pod of the node has no Event.
func TestNoPod(t *testing.T) {
	d := newDesk(t)
	for _, workload := range []string{"node", "shop/none"} {
		d.deny(denial(workload, "api.example.com", "192.0.2.1:443"))
	}
	if got := d.list(); len(got) != 0 || d.Stats().NoPod != 2 {
		t.Errorf("%d Events, %+v", len(got), d.Stats())
	}
}

// TestAway: while the API server is away nothing waits, all is counted, and what
// goes on is told when it is back.
func TestAway(t *testing.T) {
	d := newDesk(t)
	away, tries := true, 0
	d.api.PrependReactor("*", "events", func(clienttest.Action) (bool, runtime.Object, error) {
		tries++
		return away, nil, errors.New("connection refused")
	})
	for i := range 1000 {
		d.deny(denial("shop/web", fmt.Sprintf("h%d.example.com", i), "192.0.2.1:443"))
	}
	if s := d.Stats(); tries != 1 || s.Failed != 1000 || len(d.table.said) != 0 {
		t.Errorf("%d tries, %+v", tries, s)
	}
	d.now = d.now.Add(firstQuiet)
	d.deny(denial("shop/web", "h1.example.com", "192.0.2.1:443"))
	d.now = d.now.Add(firstQuiet)
	d.deny(denial("shop/web", "h1.example.com", "192.0.2.1:443"))
	if tries != 2 {
		t.Errorf("%d tries: it does not back off", tries)
	}
	away = false
	d.now = d.now.Add(longQuiet)
	d.deny(denial("shop/web", "h1.example.com", "192.0.2.1:443"))
	if got := d.list(); len(got) != 1 || d.Stats().Written != 1 {
		t.Errorf("%d Events, %+v", len(got), d.Stats())
	}
}

// TestForbidden: where Events may not be written that is said once, and is no sign
// that the API server is away.
func TestForbidden(t *testing.T) {
	d := newDesk(t)
	log := &testenv.Buffer{}
	d.o.Log = slog.New(slog.NewTextHandler(log, nil))
	d.api.PrependReactor("create", "events", func(a clienttest.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewForbidden(a.GetResource().GroupResource(), "", nil)
	})
	for i := range 3 {
		d.deny(denial("shop/web", fmt.Sprintf("h%d.example.com", i), "192.0.2.1:443"))
	}
	if n := strings.Count(log.String(), "ClusterRole"); n != 1 || d.Stats().Failed != 3 || d.away() {
		t.Errorf("said %d times, %+v", n, d.Stats())
	}
}

// TestRecordNeverWaits: nobody who records waits for the API server, or for us.
func TestRecordNeverWaits(t *testing.T) {
	d := newDesk(t)
	for range 3 * queueLength { // Run does not run
		d.Record(new(denial("shop/web", "api.example.com", "192.0.2.1:443")))
	}
	if got := d.Stats().Dropped; got != 2*queueLength {
		t.Errorf("%d dropped", got)
	}
	allowed := denial("shop/web", "api.example.com", "192.0.2.1:443")
	allowed.Allowed = true
	d.Record(&allowed)
	if got := d.Stats().Dropped; got != 2*queueLength {
		t.Errorf("what is allowed is told: %d dropped", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan bool)
	go func() { defer close(ended); d.Run(ctx) }()
	testenv.Until(t, "the API server has it", func() bool { return d.Stats().Written == 1 && len(d.denials) == 0 })
	cancel()
	<-ended
}

// TestToldBefore: a daemon that starts again tells nothing twice, and counts on.
func TestToldBefore(t *testing.T) {
	d := newDesk(t)
	e := denial("shop/web", "api.example.com", "192.0.2.1:443")
	d.deny(e)
	again := newDesk(t)
	again.Events = NewEvents(d.o)
	again.api = d.api
	again.deny(e)
	if got := again.list(); len(got) != 1 || again.Stats().Written != 0 {
		t.Fatalf("%d Events, %+v", len(got), again.Stats())
	}
	d.now = d.now.Add(repeatEvery)
	again.flush(t.Context())
	if got := again.list(); got[0].Series == nil || got[0].Series.Count != 2 {
		t.Errorf("%+v", got[0].Series)
	}
}

// TestRefused: an object that is refused has an Event, and they are bounded.
func TestRefused(t *testing.T) {
	d := newDesk(t)
	about := core.ObjectReference{APIVersion: "networking.istio.io/v1", Kind: "ServiceEntry", Namespace: "shop", Name: "bad", UID: "u"}
	for i := range 2 * refusalBurst {
		d.refuse(t.Context(), refusal{about, fmt.Sprint("spec.hosts: ", i)})
	}
	d.refuse(t.Context(), refusal{about, "spec.hosts: 0"}) // again
	got := d.list()
	if len(got) != refusalBurst || got[0].Reason != ReasonRefused || got[0].Regarding != about || d.Stats().Folded != refusalBurst+1 {
		t.Errorf("%d Events, %+v", len(got), d.Stats())
	}
}
