// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/loader/telemetry"
	"github.com/egressd/egressd/policy"
)

const greeting = "SSH-2.0-server\r\n"

// sendGreeted says what looks like HTTP when it has been greeted.
func sendGreeted(addr netip.AddrPort) result {
	fd, sa, err := socket(addr, unix.SOCK_STREAM, false)
	if err != nil {
		return result{Errno: errnoName(err)}
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, sa); err != nil {
		return result{Errno: errnoName(err)}
	}
	buf := make([]byte, 64)
	n, _, err := receive(fd, buf)
	if err == nil {
		_, err = unix.Write(fd, firstBytes("http", "seen.example"))
	}
	if err != nil {
		return result{Errno: errnoName(err)}
	}
	return result{Data: string(buf[:n])}
}

// TestAuditReads: of a connection that audit mode lets pass the first bytes are told,
// once, and nothing of it is held back; in enforce mode, and without a workload, nothing
// is told.
func TestAuditReads(t *testing.T) {
	r, events := newInspectRig(t)
	id, err := r.cg.ID()
	must(t, err)
	const greetsPort, freePort = 9446, 9447
	for _, a := range []string{world.StrangerV4, world.StrangerV6} {
		for port, greeting := range map[uint16]string{greetsPort: greeting, freePort: ""} {
			_, err := r.world.AddTCP(netip.AddrPortFrom(netip.MustParseAddr(a), port), greeting)
			must(t, err)
		}
	}
	mode := func(m policy.Mode) {
		must(t, r.dp.SetWorkload(id, loader.WorkloadState{ID: 1, Policy: testPolicy, Mode: m}))
	}
	// told are the events so far.
	marker := netip.MustParseAddrPort(hostport(world.StrangerV4, 1))
	told := func() (out []telemetry.KernelEvent) {
		r.run(true, "tcp", marker.String())
		for {
			select {
			case e := <-events:
				if e.Dst == marker {
					return out
				}
				out = append(out, e)
			case <-time.After(10 * time.Second):
				t.Fatal("no event")
			}
		}
	}
	for _, a := range []string{world.StrangerV4, world.StrangerV6} {
		for _, c := range []struct {
			kind, name, chunk string
			want              telemetry.Spoken
			sni               string
		}{
			{"hello", "seen.example", "0", telemetry.SpokenTLS, "seen.example"},
			{"long", "seen.example", "0", telemetry.SpokenTLS, ""},    // in several segments
			{"hello", "seen.example", "100", telemetry.SpokenTLS, ""}, // a part of it
			{"nosni", "", "0", telemetry.SpokenOther, ""},
			{"http", "seen.example", "0", telemetry.SpokenHTTP, ""},
			{"ssh", "", "0", telemetry.SpokenOther, ""},
		} {
			mode(policy.Audit)
			if got := r.run(true, "hello", hostport(a, freePort), c.kind, c.name, c.chunk, "0"); got.Data != "echoed" {
				t.Errorf("%s %+v: %+v", a, c, got)
			}
			var first []telemetry.KernelEvent
			for _, e := range told() {
				if e.First != "" {
					first = append(first, e)
				}
			}
			if len(first) != 1 || first[0].First != c.want || first[0].Name != c.sni || !first[0].Audit || first[0].Reason != policy.ReasonNoRule ||
				first[0].Workload != 1 || first[0].PID == 0 || first[0].Dst.Port() != freePort {
				t.Errorf("%s %+v: told %+v", a, c, first)
			}
		}
		// Who is greeted first speaks no TLS and no HTTP, whatever it says.
		if got := r.run(true, "greeted", hostport(a, greetsPort)); got.Data != greeting {
			t.Errorf("%s: %+v", a, got)
		}
		greeted, list := false, told()
		for _, e := range list {
			greeted = greeted || e.First == telemetry.SpokenOther && e.Received == uint64(len(greeting))
		}
		if !greeted {
			t.Errorf("%s: what the server began is not told: %+v", a, list)
		}
		mode(policy.Enforce)
		if got := r.run(true, "hello", hostport(a, freePort), "ssh", "", "0", "0"); got.Data == "echoed" {
			t.Errorf("%s in enforce mode: %+v", a, got)
		}
		for _, e := range told() {
			if e.First != "" {
				t.Errorf("in enforce mode: %+v", e)
			}
		}
	}
}
