// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/internal/ipguard"
)

// Cluster says what lies inside of the Kubernetes cluster that the node is part
// of. The zero value is that of a node which is part of none. It is the
// operator's to say, not that of an author of policy.
type Cluster struct {
	// Prefixes are the addresses of Services and Pods. Every workload reaches
	// them on every port, unless a Sidecar with egress hosts applies to it.
	Prefixes []netip.Prefix
	// Domains are what the names of Services and Pods end in, normalized. None:
	// DefaultClusterDomain.
	Domains []string
	// Servers are the addresses of the cluster's DNS service. None: those of
	// the Service kube-dns of namespace kube-system.
	Servers []netip.Addr
}

// DefaultClusterDomain is the domain of a cluster that says no other (kubelet
// --cluster-domain).
const DefaultClusterDomain = "cluster.local"

// ParseClusterPrefix reads a prefix of the cluster's. One that holds half of
// all addresses or more is refused: it is a slip that would open the internet.
func ParseClusterPrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return p, fmt.Errorf("%q is not a CIDR such as 10.96.0.0/12 or fd00:10:96::/112", s)
	case p.Addr().Is4In6():
		return p, fmt.Errorf("%q is IPv4 in IPv6 form; write it as IPv4", s)
	case p.Bits() < 4:
		return p, fmt.Errorf("%q is more than a cluster can have: every workload would reach all of it", s)
	}
	p = ipguard.Plain(p)
	if len(ipguard.Without(p, ipguard.NodeLocal())) == 0 || p.Addr().IsMulticast() {
		return p, fmt.Errorf("%q is never inside of a cluster: loopback, link-local, metadata and multicast addresses are not", s)
	}
	return p, nil
}

// ParseClusterDomain reads a domain of the cluster's.
func ParseClusterDomain(s string) (string, error) {
	d, err := hostname.Normalize(s)
	if err != nil {
		return "", fmt.Errorf("%q is not a domain: %w", s, err)
	}
	return d, nil
}

// FindCluster among the prefixes has them found out.
const FindCluster = "auto"

// ParseCluster reads the operator's flags: prefixes, one of which may be
// FindCluster, domains and addresses of DNS servers.
func ParseCluster(prefixes, domains, servers []string) (c Cluster, find bool, err error) {
	for _, s := range prefixes {
		if s == FindCluster {
			find = true
			continue
		}
		p, err := ParseClusterPrefix(s)
		if err != nil {
			return Cluster{}, false, err
		}
		c.Prefixes = append(c.Prefixes, p)
	}
	for _, s := range domains {
		d, err := ParseClusterDomain(s)
		if err != nil {
			return Cluster{}, false, err
		}
		c.Domains = append(c.Domains, d)
	}
	for _, s := range servers {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" || a.Is4In6() {
			return Cluster{}, false, fmt.Errorf("%q is not the address of a DNS server such as 10.96.0.10 or 169.254.20.10", s)
		}
		c.Servers = append(c.Servers, a)
	}
	return c, find, nil
}

// Names are the domains that names of the cluster end in; none without a
// cluster.
func (c *Cluster) Names() []string {
	switch {
	case len(c.Prefixes) == 0:
		return nil
	case len(c.Domains) == 0:
		return []string{DefaultClusterDomain}
	}
	return c.Domains
}

// Equal says whether two say the same.
func (c *Cluster) Equal(o *Cluster) bool {
	return slices.Equal(c.Prefixes, o.Prefixes) && slices.Equal(c.Domains, o.Domains) && slices.Equal(c.Servers, o.Servers)
}

// Has says whether an address is one of the cluster's prefixes.
func (c *Cluster) Has(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	return slices.ContainsFunc(c.Prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}
