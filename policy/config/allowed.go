// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"net/netip"
	"path"
	"strings"

	"github.com/egressd/egressd/internal/ipguard"
)

// AllowedEndpoint is a place on the node, or one that only the node is meant to
// reach, that its operator lets policies lead to: a unix socket, or node-local
// addresses (loopback, link-local, metadata services). An author of policy
// cannot say so: egressd dials as root and from the node, which is not where
// the author stands.
type AllowedEndpoint struct {
	// Unix is the path of a socket, or "@name" of an abstract one; "" when the
	// endpoint is an address.
	Unix   string
	Prefix netip.Prefix
	Port   uint16 // 0: every port
}

const unixScheme = "unix://"

// maxAbstract is how long an abstract name may be, in bytes with its "@" (unix(7),
// sun_path). A path may be longer: what it leads to is opened first (internal/dial).
const maxAbstract = 108

// ParseAllowedEndpoint reads what String writes: unix:///PATH, unix://@NAME,
// an address or CIDR, or an address with a port.
func ParseAllowedEndpoint(s string) (AllowedEndpoint, error) {
	if socket, ok := strings.CutPrefix(s, unixScheme); ok {
		switch {
		case len(socket) > maxAbstract && socket[0] == '@':
			return AllowedEndpoint{}, fmt.Errorf("%q: the name has %d bytes, and the kernel takes no name of an abstract unix socket with more than %d (unix(7))", s, len(socket)-1, maxAbstract-1)
		case len(socket) > 1 && socket[0] == '@':
		case !path.IsAbs(socket) || path.Clean(socket) != socket || socket == "/":
			return AllowedEndpoint{}, fmt.Errorf("%q: write unix:///PATH with an absolute path without dots and double slashes, or unix://@NAME", s)
		}
		return AllowedEndpoint{Unix: socket}, nil
	}
	if ap, err := netip.ParseAddrPort(s); err == nil && ap.Port() != 0 && ap.Addr().Zone() == "" {
		a := ap.Addr().Unmap()
		return AllowedEndpoint{Prefix: netip.PrefixFrom(a, a.BitLen()), Port: ap.Port()}, nil
	}
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return AllowedEndpoint{Prefix: netip.PrefixFrom(a, a.BitLen())}, nil
	}
	if p, err := netip.ParsePrefix(s); err == nil {
		return AllowedEndpoint{Prefix: ipguard.Plain(p)}, nil
	}
	return AllowedEndpoint{}, fmt.Errorf("%q is not unix:///PATH, ADDRESS, CIDR or ADDRESS:PORT", s)
}

func (a AllowedEndpoint) String() string {
	switch {
	case a.Unix != "":
		return unixScheme + a.Unix
	case a.Port != 0:
		return netip.AddrPortFrom(a.Prefix.Addr(), a.Port).String()
	case a.Prefix.IsSingleIP():
		return a.Prefix.Addr().String()
	}
	return a.Prefix.String()
}

// Opens says whether the port is among those that are allowed.
func (a AllowedEndpoint) Opens(port uint16) bool { return a.Port == 0 || a.Port == port }
