// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/egressd/egressd/internal/hostile"
	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/policy"
)

// serverName is a server_name extension (RFC 6066, section 3).
func serverName(name string) []byte {
	entry := append([]byte{0, byte(len(name) >> 8), byte(len(name))}, name...)
	list := append(binary.BigEndian.AppendUint16(nil, uint16(len(entry))), entry...)
	return append(binary.BigEndian.AppendUint16([]byte{0, 0}, uint16(len(list))), list...)
}

// TestHostileSpellings: the kernel lets a spelling pass only as the name that
// it stands for, with all of these names allowed.
func TestHostileSpellings(t *testing.T) {
	r := newRig(t)
	var openings []policy.Opening
	seen := map[string]bool{}
	for _, s := range hostile.Spellings() {
		if s.Name != "" && !seen[s.Name] {
			seen[s.Name] = true
			openings = append(openings, policy.Opening{Port: inspectPort, Transport: policy.TCP, Verdict: policy.Inspect, Name: s.Name})
		}
	}
	for _, a := range []string{world.StrangerV4, world.StrangerV6} {
		addr := netip.MustParseAddr(a)
		if _, err := r.world.AddTCP(netip.AddrPortFrom(addr, inspectPort), ""); err != nil {
			t.Fatal(err)
		}
		must(t, r.dp.SetAddress(testPolicy, addr, openings))
	}
	r.serveEvents()
	type attempt struct {
		hostile.Spelling
		line string
	}
	var tries []attempt
	var lines []string
	for _, s := range hostile.Spellings() {
		if s.Text == "" && s.Wire != nil {
			continue // it has no text
		}
		for _, a := range []string{world.StrangerV4, world.StrangerV6} {
			line := fmt.Sprintf("%s sni %+q 0 0", hostport(a, inspectPort), s.Text)
			tries, lines = append(tries, attempt{s, line}), append(lines, line)
		}
	}
	passed := 0
	for i, got := range r.hellos(lines) {
		s := tries[i]
		switch pass := got.Data == "echoed"; {
		case pass && s.Name == "":
			t.Errorf("%s: %s passed", s.What, s.line)
		case pass:
			passed++
		case got.Errno != "ECONNABORTED" && got.Errno != "ECONNRESET" && got.Errno != "EPIPE":
			t.Errorf("%s: %s: %+v", s.What, s.line, got)
		case s.Name == s.Text && s.Name != "":
			t.Errorf("%s: %s: %+v, want it to pass", s.What, s.line, got)
		}
	}
	if passed < 12 {
		t.Errorf("%d spellings passed", passed)
	}
}
