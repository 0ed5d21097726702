// SPDX-License-Identifier: Apache-2.0

package analyze

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/code"
	"github.com/egressd/egressd/policy/istio/internal/model"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// mistakes finds what is right by itself and seldom meant.
func (a *analysis) mistakes() {
	ruled := map[hostname.Pattern]bool{} // hosts of DestinationRules
	for _, r := range a.cfg.DestinationRules {
		ruled[r.Host] = true
	}
	opens := a.cfg.Mesh.Outbound == policy.AllowAny || len(a.cfg.Gateways) > 0
	for _, s := range a.cfg.Services {
		if !s.External {
			continue
		}
		opens = opens || len(s.Ports) > 0
		a.spoken(s, ruled)
		a.networks(s)
		a.elsewhere(s)
		a.nowhere(s)
	}
	if !opens {
		a.nothing()
	}
}

// nothing says that a policy allows nothing, in its first file.
func (a *analysis) nothing() {
	first := ""
	for name, i := range a.Report.Order {
		if first == "" || i < a.Report.Order[first] {
			first = name
		}
	}
	if first == "" {
		return
	}
	p := strictyaml.Reporter{Report: a.Report, File: first}
	p.Warnf(nil, "no ServiceEntry opens anything: every connection that leaves the node is denied, and every name is refused; write a ServiceEntry for each host that is needed")
}

// clearText says whose port it is, when its clients begin in clear text: some
// change to TLS later, in a way of their own.
func clearText(port uint16) string {
	switch port {
	case 21:
		return "FTP's"
	case 22:
		return "SSH's"
	case 25, 587, 2525:
		return "SMTP's"
	case 110:
		return "POP3's"
	case 119:
		return "NNTP's"
	case 143:
		return "IMAP's"
	case 389:
		return "LDAP's"
	case 1433:
		return "SQL Server's"
	case 3306:
		return "MySQL's"
	case 3389:
		return "RDP's"
	case 4190:
		return "Sieve's"
	case 5222, 5269:
		return "XMPP's"
	case 5432, 6432:
		return "PostgreSQL's"
	}
	return ""
}

// spoken warns about ports whose clients, as far as one knows, begin otherwise
// than the port is declared. Of a host with a DestinationRule that is not
// known: it may make TLS of what is plain before.
func (a *analysis) spoken(s *policy.Service, ruled map[hostname.Pattern]bool) {
	for i, p := range s.Ports {
		whose, how := clearText(p.Number), ""
		switch {
		case p.TargetPort != 0 && p.TargetPort != p.Number:
			continue // the number is the author's own
		case whose != "" && p.Protocol.IsTLS():
			how = fmt.Sprintf("port %d is %s, whose clients do not begin with a ClientHello, also where they change to TLS later (STARTTLS): as %v every connection is reset (not-tls); write protocol: TCP", p.Number, whose, p.Protocol)
		case whose != "" && p.Protocol.IsHTTP():
			how = fmt.Sprintf("port %d is %s, whose clients send no HTTP requests: as %v every connection is refused (not-http); write protocol: TCP", p.Number, whose, p.Protocol)
		case p.Number == 443 && p.Protocol.IsHTTP() && !slices.ContainsFunc(s.Hosts, func(h hostname.Pattern) bool { return ruled[h] }):
			how = fmt.Sprintf("clients of port 443 begin with TLS: as %v every such connection is refused (not-http); write protocol: HTTPS, unless plain HTTP is served there", p.Protocol)
		case p.Number == 80 && p.Protocol.IsTLS():
			how = fmt.Sprintf("clients of port 80 begin with plain HTTP: as %v every such connection is reset (not-tls); write protocol: HTTP, unless TLS is served there", p.Protocol)
		default:
			continue
		}
		at := a.part(s.Ref)
		at.SayCode(code.Clients, strictyaml.Warning, at.spec("ports", i, "protocol"), "%s", how)
	}
}

// networks warns where a name stands beside networks that are open whatever
// the name.
func (a *analysis) networks(s *policy.Service) {
	if s.Resolution != policy.ResolutionNone {
		return
	}
	wide := slices.IndexFunc(s.Addresses, func(p netip.Prefix) bool { return !p.IsSingleIP() })
	named := slices.IndexFunc(s.Hosts, func(h hostname.Pattern) bool { return !isMadeUp(h) })
	opaque := slices.IndexFunc(s.Ports, func(p policy.Port) bool { return !p.Protocol.IsTLS() && !p.Protocol.IsHTTP() })
	if wide < 0 || named < 0 || opaque < 0 {
		return
	}
	at := a.part(s.Ref)
	at.Warnf(at.spec("addresses", wide), "all of %v is open on port %d, by address and for whatever name, and what %s resolves to as well: the name does not narrow the network. "+
		"Leave addresses out to open the name alone, or make the name up (network.internal) to open the network alone",
		s.Addresses[wide], s.Ports[opaque].Number, s.Hosts[named])
}

// elsewhere tells of hosts that clients must ask for although a server of
// another name is what they reach.
func (a *analysis) elsewhere(s *policy.Service) {
	if s.Resolution != policy.ResolutionDNS && s.Resolution != policy.ResolutionDNSRoundRobin || len(s.Addresses) > 0 {
		return
	}
	for j, h := range s.Hosts {
		i := slices.IndexFunc(s.Endpoints, func(e policy.Endpoint) bool { return e.Host != "" && e.Host != string(h) })
		if i < 0 {
			continue
		}
		real := s.Endpoints[i].Host
		open := ""
		if a.undeclared(real) {
			open = fmt.Sprintf("; %s itself stays closed", real)
		}
		at := a.part(s.Ref)
		if isMadeUp(h) {
			at.Warnf(at.spec("hosts", j), "clients must ask for %s to reach %s, and egressd asks the DNS servers for it: if none of them knows the name, no client gets an address. "+
				"Write hosts: [%s] if that is what clients ask for, or give the entry an address of its own (addresses: [240.0.0.1]), which egressd then answers with%s", h, real, real, open)
			continue
		}
		at.Say(strictyaml.Note, at.spec("hosts", j), "clients must ask for %s, and reach %s%s", h, real, open)
	}
}

// nowhere warns about services that have no endpoint and can have none.
func (a *analysis) nowhere(s *policy.Service) {
	if s.Resolution != policy.ResolutionStatic || len(s.Endpoints) > 0 {
		return
	}
	if slices.ContainsFunc(s.Hosts, func(h hostname.Pattern) bool { return a.takesOver(h, s.Ref.Namespace) }) {
		return
	}
	at := a.part(s.Ref)
	if at.object != nil && at.object.Get("workloadSelector") != nil {
		return // what it selects is said there
	}
	at.Warnf(at.spec("resolution"), "STATIC without endpoints: every connection fails, for there is nowhere to go; list endpoints with their addresses, or write resolution: DNS")
}

// takesOver says whether a ServiceEntry's host is that of a Kubernetes Service
// of its namespace, whose endpoints it then has.
func (a *analysis) takesOver(h hostname.Pattern, namespace string) bool {
	name, rest, dotted := strings.Cut(string(h), ".")
	if dotted && rest != namespace && rest != namespace+".svc" && !strings.HasPrefix(rest, namespace+".svc.") {
		return false
	}
	full := hostname.Pattern(model.KubernetesName(name, namespace))
	inside := func(s *policy.Service) bool { return s != nil && !s.External }
	return inside(a.hosts.exact[full].service) || slices.ContainsFunc(a.hosts.several[full], inside)
}

// isMadeUp says whether a host cannot be a name of the public DNS: one label,
// or under a domain that is for private use (RFC 6761, RFC 6762, ICANN's
// .internal, and what is in use).
func isMadeUp(h hostname.Pattern) bool {
	last := string(h)[strings.LastIndexByte(string(h), '.')+1:]
	switch last {
	case string(h), "internal", "local", "localdomain", "lan", "home", "corp", "private", "intranet", "test", "invalid", "mesh":
		return true
	}
	return false
}
