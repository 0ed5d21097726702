// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"io"
	"net/netip"
	"slices"
	"strconv"

	"github.com/miekg/dns"
)

// nodeFiles are where a node names its servers. The second has the servers
// behind systemd-resolved's stub: resolved itself is captured, and what it
// asks must reach the server that it addressed, not itself again.
var nodeFiles = []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"}

// NodeConfig reads the node's DNS servers and search domains (resolv.conf(5)).
// Files that are missing or wrong are left out.
func NodeConfig() (servers []netip.AddrPort, search []string) {
	for _, file := range nodeFiles {
		c, err := dns.ClientConfigFromFile(file)
		if err != nil {
			continue
		}
		port, err := strconv.ParseUint(c.Port, 10, 16)
		if err != nil {
			continue
		}
		for _, s := range c.Servers {
			a, err := netip.ParseAddr(s)
			if err != nil {
				continue
			}
			ap := netip.AddrPortFrom(a.Unmap(), uint16(port))
			if !slices.Contains(servers, ap) {
				servers = append(servers, ap)
			}
		}
		for _, s := range c.Search {
			if !slices.Contains(search, s) {
				search = append(search, s)
			}
		}
	}
	return servers, search
}

// ReadSearch reads the search suffixes of a resolv.conf.
func ReadSearch(r io.Reader) ([]string, error) {
	c, err := dns.ClientConfigFromReader(r)
	if err != nil {
		return nil, err
	}
	return c.Search, nil
}
