// SPDX-License-Identifier: Apache-2.0

package config

import (
	"net/netip"

	"github.com/egressd/egressd/internal/hostname"
)

// TLSRule is one entry of VirtualService.tls: where connections go by their SNI.
type TLSRule struct {
	Ref     Ref
	Matches []*L4Match // OR; never empty, each with SNIHosts
	Route   []*WeightedDestination
}

// TCPRule is one entry of VirtualService.tcp.
type TCPRule struct {
	Ref     Ref
	Matches []*L4Match // OR; empty matches everything
	Route   []*WeightedDestination
}

// L4Match is Istio's TLSMatchAttributes and L4MatchAttributes: all set
// fields must match.
type L4Match struct {
	// SNIHosts are those of a TLSRule; a TCPRule has none.
	SNIHosts []hostname.Pattern
	// Subnets of the address that was dialled; empty: any.
	Subnets []netip.Prefix
	Port    uint16 // that was dialled; 0: any
	// SourceLabels and SourceNamespace are about the workload; empty: any.
	SourceLabels    map[string]string
	SourceNamespace string
	Gateways        []string // overrides VirtualService.Gateways when set
}
