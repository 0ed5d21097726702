// SPDX-License-Identifier: Apache-2.0

package config

import "fmt"

// Mode says what a denial means for a workload. The numbers are shared with
// the kernel programs (enum egd_mode in bpf/egressd.h).
type Mode uint8

// The modes. There is no automatic change between them.
const (
	// Enforce: deny is deny.
	Enforce Mode = iota
	// Audit: a denial is logged as would-deny and then allowed.
	Audit
	// Off: nothing is decided.
	Off
)

var modeNames = [...]string{"enforce", "audit", "off"}

func (m Mode) String() string {
	if int(m) < len(modeNames) {
		return modeNames[m]
	}
	return "enforce"
}

// MarshalText writes the mode's name.
func (m Mode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (m *Mode) UnmarshalText(text []byte) error {
	for i, name := range modeNames {
		if string(text) == name {
			*m = Mode(i)
			return nil
		}
	}
	return fmt.Errorf("unknown mode %q", text)
}

// Transport is an IP protocol number (IANA): TCP 6, UDP 17.
type Transport uint8

// The transports that policy speaks about. Any other IP protocol is denied.
const (
	TCP Transport = 6
	UDP Transport = 17
)

func (t Transport) String() string {
	switch t {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	}
	return "ip"
}

// Other is the transport that t is not.
func (t Transport) Other() Transport {
	if t == UDP {
		return TCP
	}
	return UDP
}
