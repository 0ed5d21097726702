// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/policy"
)

// attempt is one row of the demo: something a workload tries.
type attempt struct {
	what string   // what the workload does
	try  []string // arguments of Client
	// want says whether the outcome is the promised one; promise is that in words.
	want    func(outcome) bool
	promise string
	// reasons are those that a denial may be given; none: it needs no event.
	reasons []policy.Reason
	// name and addr find the event of this attempt; either may be zero.
	name string
	addr netip.Addr
	// visitor says that it comes from the internet, not from the workload.
	visitor bool
	// note is the reason that is printed when no event is looked for.
	note string
}

func status(code int) func(outcome) bool { return func(o outcome) bool { return o.Status == code } }

// answered says that text appears in the answer.
func answered(text string) func(outcome) bool {
	return func(o outcome) bool { return strings.Contains(o.Text, text) }
}

// refused is no answer of any kind.
func refused(o outcome) bool { return o.Error != "" && o.Status == 0 && o.Text == "" }

// atOnce is refused in under a second: the app does not hang.
func atOnce(o outcome) bool { return refused(o) && o.Took < time.Second }

// gaveUp is the 504 of a route whose timeout is 10 s.
func gaveUp(o outcome) bool {
	return o.Status == 504 && o.Took > 9*time.Second && o.Took < 13*time.Second
}

// slowAttempt takes 10 s, so it runs beside the others.
func slowAttempt() attempt {
	return attempt{
		what: "GET http://www.googleapis.com, whose answer takes 30 s", try: []string{"http", "http://" + world.GoogleAPIs + "/slow?d=30s"},
		want: gaveUp, promise: "504 after 10 s", note: "timeout: 10 in the VirtualService",
	}
}

// attempts are the rows while egressd runs.
func attempts(w *world.World) []attempt {
	google, db := world.GoogleAPIs, world.ExternalDB
	stranger := netip.MustParseAddr(world.StrangerV4)
	stranger6 := netip.MustParseAddr(world.StrangerV6)
	resolver := netip.MustParseAddr(world.OtherResolverV4)
	byName := []policy.Reason{policy.ReasonName}
	byAddr := []policy.Reason{policy.ReasonNoRule}
	ca := w.CAFile()
	return []attempt{
		{what: "GET http://" + google, try: []string{"http", "http://" + google + "/"}, want: status(200), promise: "200"},
		{what: "GET https://" + google, try: []string{"http", "-ca", ca, "https://" + google + "/"}, want: status(200), promise: "200"},
		{what: "GET http://" + google + " over IPv6", try: []string{"http", "-6", "http://" + google + "/"}, want: status(200), promise: "200"},
		{what: "GET https://" + google + " over IPv6", try: []string{"http", "-6", "-ca", ca, "https://" + google + "/"}, want: status(200), promise: "200"},
		{what: "connect " + db + ":3306", try: []string{"tcp", db + ":3306"}, want: answered("MariaDB"), promise: "the database's greeting"},
		{what: "connect external-db:3306 (STATIC, the Service's endpoints)", try: []string{"tcp", "external-db:3306"}, want: answered("MariaDB"), promise: "the database's greeting"},
		{what: "GET http://" + world.Stranger, try: []string{"http", "http://" + world.Stranger + "/"}, want: refused, promise: "no address", name: world.Stranger, reasons: byName},
		{what: "ask DNS for " + world.Stranger, try: []string{"dns", world.ResolverV4 + ":53", world.Stranger}, want: answered("NXDOMAIN"), promise: "NXDOMAIN", name: world.Stranger, reasons: byName},
		{what: "ask another resolver, " + resolver.String(), try: []string{"dns", resolver.String() + ":53", world.Stranger}, want: answered("NXDOMAIN"), promise: "NXDOMAIN", name: world.Stranger, reasons: byName},
		{what: "DNS over HTTPS at " + resolver.String(), try: []string{"http", "https://" + resolver.String() + "/dns-query"}, want: atOnce, promise: "refused at once", addr: resolver, reasons: byAddr},
		{what: "GET http://" + stranger.String(), try: []string{"http", "http://" + stranger.String() + "/"}, want: atOnce, promise: "refused at once", addr: stranger, reasons: byAddr},
		{what: "GET http://[" + stranger6.String() + "]", try: []string{"http", "http://[" + stranger6.String() + "]/"}, want: atOnce, promise: "refused at once", addr: stranger6, reasons: byAddr},
		{what: "TLS for " + google + " at the stranger's address", try: []string{"http", "-at", stranger.String(), "https://" + google + "/"}, want: atOnce, promise: "refused at once", addr: stranger, reasons: byAddr},
		{what: "TLS for " + world.Stranger + " at an allowed address", try: []string{"http", "-at", w.GoogleAPIs.V4.String(), "https://" + world.Stranger + "/"}, want: refused, promise: "refused", addr: w.GoogleAPIs.V4, reasons: byName},
		{what: google + " on port 8080", try: []string{"http", "http://" + google + ":8080/"}, want: atOnce, promise: "refused at once", addr: w.GoogleAPIs.V4, reasons: []policy.Reason{policy.ReasonPort, policy.ReasonNoRule}},
		{what: "UDP to " + stranger.String() + ":443", try: []string{"udp", stranger.String() + ":443"}, want: atOnce, promise: "refused at once", addr: stranger, reasons: byAddr},
		{what: "UDP (QUIC) to an allowed address", try: []string{"udp", w.GoogleAPIs.V4.String() + ":443"}, want: atOnce, promise: "refused at once", addr: w.GoogleAPIs.V4, reasons: []policy.Reason{policy.ReasonTransport, policy.ReasonPort, policy.ReasonNoRule}},
	}
}

// visits are what others on the internet ask the node's gateway for.
func visits() []attempt {
	node := "http://" + world.NodeV4
	return []attempt{
		{what: "a visitor: GET " + node + "/productpage", try: []string{"http", node + "/productpage"}, visitor: true, want: status(200), promise: "200", note: "the bookinfo Gateway's route"},
		{what: "a visitor: GET http://[" + world.NodeV6 + "]/static/x", try: []string{"http", "http://[" + world.NodeV6 + "]/static/x"}, visitor: true, want: status(200), promise: "200", note: "the bookinfo Gateway's route"},
		{what: "a visitor: GET " + node + "/admin", try: []string{"http", node + "/admin"}, visitor: true, want: status(404), promise: "404", note: "no route matches"},
	}
}

// killedAttempts are the rows after kill -9 of the daemon.
func killedAttempts() []attempt {
	google := world.GoogleAPIs
	return []attempt{
		{what: "kill -9 egressd; GET http://" + world.StrangerV4, try: []string{"http", "http://" + world.StrangerV4 + "/"}, want: atOnce, promise: "refused at once", note: "the kernel goes on with the last policy"},
		{what: "kill -9 egressd; GET http://" + google, try: []string{"http", "http://" + google + "/"}, want: refused, promise: "refused", note: "nobody answers DNS or proxies"},
	}
}

// backAttempts are the rows after a restart.
func backAttempts(w *world.World) []attempt {
	google := world.GoogleAPIs
	return []attempt{
		{what: "egressd is back; GET http://" + google, try: []string{"http", "http://" + google + "/"}, want: status(200), promise: "200"},
		{what: "egressd is back; GET https://" + google, try: []string{"http", "-ca", w.CAFile(), "https://" + google + "/"}, want: status(200), promise: "200"},
		{what: "egressd is back; GET http://" + world.StrangerV4, try: []string{"http", "http://" + world.StrangerV4 + "/"}, want: atOnce, promise: "refused at once", addr: netip.MustParseAddr(world.StrangerV4), reasons: []policy.Reason{policy.ReasonNoRule}},
	}
}

// describe says in words what happened.
func describe(o outcome) string {
	took := round(o.Took)
	switch {
	case o.Status != 0:
		return fmt.Sprintf("%d in %s", o.Status, took)
	case o.Text != "":
		return fmt.Sprintf("%s in %s", o.Text, took)
	case o.Error != "":
		return fmt.Sprintf("%s after %s", short(o), took)
	}
	return "nothing"
}

// short is the part of an error that says most.
func short(o outcome) string {
	if o.Errno != 0 {
		return o.Errno.Error()
	}
	text := o.Error
	if rest, ok := strings.CutPrefix(text, "curl: ("); ok {
		_, text, _ = strings.Cut(rest, ") ")
	}
	parts := strings.Split(text, ": ")
	last := parts[len(parts)-1]
	if last == "Couldn't connect to server" { // it says so three times
		return "no connection"
	}
	if text != o.Error && (last == "" || last[0] < 'A' || last[0] > 'Z') {
		return parts[0] // of curl's "Could not resolve host: NAME"
	}
	return last
}

// round keeps about three digits.
func round(d time.Duration) time.Duration {
	for _, unit := range []time.Duration{time.Second, time.Millisecond, time.Microsecond} {
		if d >= 100*unit {
			return d.Round(unit)
		}
		if d >= 10*unit {
			return d.Round(unit / 10)
		}
		if d >= unit {
			return d.Round(unit / 100)
		}
	}
	return d
}
