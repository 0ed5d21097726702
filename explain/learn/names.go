// SPDX-License-Identifier: Apache-2.0

package learn

import (
	"net/netip"
	"strings"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/internal/ipguard"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/scheme"
)

// maxNames is how many names are learned of a flow of which it is not known which was
// meant.
const maxNames = 16

// learnable says whether a ServiceEntry could allow what was denied for r.
func learnable(r policy.Reason) bool {
	switch r {
	case policy.ReasonNoRule, policy.ReasonPort, policy.ReasonTransport, policy.ReasonName:
		return true
	}
	return misread(r)
}

// misread says whether a flow was denied because it is not what its port is declared
// as.
func misread(r policy.Reason) bool {
	return r == policy.ReasonNotTLS || r == policy.ReasonNotHTTP || r == policy.ReasonNoName
}

// hosts are the names that a flow may be for; none: an address. False: neither is known.
func hosts(e *flow.Event) ([]string, bool) {
	if e.Dst.Port() == 0 || e.Transport != policy.TCP && e.Transport != policy.UDP {
		return nil, false
	}
	list := e.Names
	if len(list) == 0 && e.Name != "" {
		list = []string{e.Name}
	}
	var out []string
	for _, s := range list[:min(len(list), maxNames)] {
		if _, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
			continue // a Host that is an address says what Dst does
		}
		if n, err := hostname.Normalize(s); err == nil && !technical(n) {
			out = append(out, n)
		}
	}
	return out, len(out) > 0 || e.Dst.Addr().IsValid()
}

// technical says whether a name is none of a host: reverse lookups, and those of
// services ("_ldap._tcp.example").
func technical(name string) bool {
	for label := range strings.SplitSeq(name, ".") {
		if strings.HasPrefix(label, "_") {
			return true
		}
	}
	return strings.HasSuffix(name, ".in-addr.arpa") || strings.HasSuffix(name, ".ip6.arpa")
}

// isPrivate says whether an answer with the address is good for a host that is named
// exactly, and not for one that a wildcard matches.
func isPrivate(a netip.Addr) bool { return ipguard.Classify(a) != ipguard.Public }

// spoken is what was read of the first bytes of flows to a destination.
type spoken struct {
	tls, http bool
	// opaque: something else, or what is said there must not be read.
	opaque bool
}

// hear notes what an event says of the first bytes.
func (s *spoken) hear(e *flow.Event, refused bool) {
	switch {
	case e.Transport != policy.TCP:
	case refused && misread(e.Reason):
		s.opaque = true
	case e.Proto == "tls":
		s.tls = true
	case e.Proto == "http":
		s.http = true
	case e.Kind == flow.Spoken:
		s.opaque = true
	case refused: // nobody read it
	case e.Layer == flow.Kernel && e.Verdict == policy.Inspect:
		s.tls = true
	default:
		s.opaque = true
	}
}

// protocol is what a ServiceEntry declares for a destination; assumed: only its port
// speaks for that.
func (s spoken) protocol(k key) (p policy.Protocol, assumed bool) {
	usual := scheme.ProtocolOfPort(k.port)
	switch {
	case k.udp:
		return policy.ProtocolUDP, false
	case k.host == "", s.opaque, s.tls && s.http: // of an address, no name in what is sent counts
		return policy.ProtocolTCP, false
	case s.http:
		return policy.ProtocolHTTP, false
	case s.tls && usual.IsTLS():
		return usual, false
	case s.tls:
		return policy.ProtocolTLS, false
	}
	return usual, usual != policy.ProtocolTCP
}
