// SPDX-License-Identifier: Apache-2.0

package world

import (
	"encoding/hex"
	"net/netip"
	"testing"
)

const (
	udp4 = "4500001d000040004011000000000000cb007142" + "303901bb00090000" + "68"
	tcp6 = "6000000000140640" + "20010db8000500000000000000000010" + "20010db80bad00000000000000000066" + "3039005000000000"
	hop6 = "6000000000140040" + "20010db8000500000000000000000010" + "20010db80bad00000000000000000066" + "1100010400000000" + "3039003500080000"
)

func TestParsePacket(t *testing.T) {
	v4, v6 := netip.MustParseAddr("203.0.113.66"), netip.MustParseAddr("2001:db8:bad::66")
	tests := []struct {
		name, packet string
		want         Packet
		ok           bool
	}{
		{"UDP", udp4, Packet{Dst: v4, Protocol: 17, Port: 443}, true},
		{"fragment", udp4[:12] + "0001" + udp4[16:], Packet{Dst: v4, Protocol: 17, Port: 0}, true},
		{"TCP over IPv6", tcp6, Packet{Dst: v6, Protocol: 6, Port: 80}, true},
		{"UDP behind hop-by-hop options", hop6, Packet{Dst: v6, Protocol: 17, Port: 53}, true},
		{"IPv6 cut", tcp6[:60], Packet{}, false},
		{"neither", "00" + udp4[2:], Packet{}, false},
	}
	for _, tt := range tests {
		b, err := hex.DecodeString(tt.packet)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := parsePacket(b); got != tt.want || ok != tt.ok {
			t.Errorf("%s: %+v, %v; want %+v, %v", tt.name, got, ok, tt.want, tt.ok)
		}
	}
}

func FuzzParsePacket(f *testing.F) {
	for _, s := range []string{udp4, tcp6, hop6, ""} {
		b, err := hex.DecodeString(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, ok := parsePacket(b); ok != p.Dst.IsValid() {
			t.Errorf("%x: %+v, %v", b, p, ok)
		}
	})
}
