// SPDX-License-Identifier: Apache-2.0

package message

import (
	"errors"
	"net/netip"
	"strconv"
	"strings"

	"github.com/egressd/egressd/internal/hostname"
)

// Errors of parseAuthority; hostname's are passed on.
var (
	ErrNoHost   = errors.New("no host")
	errUserinfo = errors.New("host has user information")
	errPort     = errors.New("host has a bad port")
	errIPv6     = errors.New("host is a bad IPv6 address")
)

// ParseAuthority takes a Host or :authority field (RFC 9110, 7.2) apart. The
// host is normalized: a name as hostname.Normalize has it, an address in
// netip's form without brackets. The port is 0 when there is none.
func ParseAuthority(s string) (host string, port uint16, err error) {
	if s == "" {
		return "", 0, ErrNoHost
	}
	if strings.IndexByte(s, '@') >= 0 {
		return "", 0, errUserinfo
	}
	if s[0] == '[' {
		return parseIPv6Authority(s)
	}
	host, number, found := strings.Cut(s, ":")
	if found && number != "" { // which may be empty (RFC 3986, 3.2.3)
		if port, err = parsePort(number); err != nil {
			return "", 0, err
		}
	}
	if host == "" {
		return "", 0, ErrNoHost
	}
	// Most are names, of which ParseAddr would make an error.
	if plain := strings.TrimSuffix(host, "."); plain != "" && '0' <= plain[len(plain)-1] && plain[len(plain)-1] <= '9' {
		if addr, err := netip.ParseAddr(plain); err == nil {
			return addr.String(), port, nil
		}
	}
	host, err = hostname.Normalize(host)
	return host, port, err
}

func parseIPv6Authority(s string) (host string, port uint16, err error) {
	host, rest, found := strings.Cut(s[1:], "]")
	addr, err := netip.ParseAddr(host)
	if !found || err != nil || !addr.Is6() || addr.Zone() != "" {
		return "", 0, errIPv6
	}
	if rest != "" && rest != ":" { // the port may be empty
		if rest[0] != ':' {
			return "", 0, errPort
		}
		if port, err = parsePort(rest[1:]); err != nil {
			return "", 0, err
		}
	}
	// A mapped address is the IPv4 address that it stands for.
	return addr.Unmap().String(), port, nil
}

func parsePort(s string) (uint16, error) {
	if s == "" || s[0] < '0' || s[0] > '9' { // ParseUint would take "+80"
		return 0, errPort
	}
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, errPort
	}
	return uint16(n), nil
}
