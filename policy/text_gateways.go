// SPDX-License-Identifier: Apache-2.0

package policy

import "fmt"

func (t *text) listener(l *GatewayListener) {
	bind := "*"
	if l.Bind.IsValid() {
		bind = l.Bind.String()
	}
	if l.Unix != "" {
		t.line(0, "listener unix:%q %s", l.Unix, protocolText(l.Protocol))
	} else {
		t.line(0, "listener %s port %d %s", bind, l.Port, protocolText(l.Protocol))
	}
	t.retries(1, "default retry", l.retries)
	if l.Topology != (Topology{}) {
		t.line(1, "behind %d proxies, PROXY protocol %v", l.Topology.TrustedProxies, l.Topology.ProxyProtocol)
	}
	t.guard(1, l.authorizer)
	t.chains(1, l)
}

// chains writes the servers of a listener and what they do.
func (t *text) chains(depth int, l *GatewayListener) {
	for _, s := range l.Servers {
		t.line(depth, "server %q %s %v namespaces %v (%v)", s.Name, protocolText(s.Protocol), s.Hosts, s.HostNamespaces, s.Ref)
		if x := s.TLS; x != nil {
			t.line(depth+1, "tls %v certificates %v credentials %v ca %q crl %q names %v spki %v hash %v versions %#x-%#x ciphers %v", x.Mode,
				x.Certificates, x.CredentialNames, x.CA, x.CRL, x.SubjectAltNames, x.VerifySPKI, x.VerifyHash, x.MinVersion, x.MaxVersion, x.CipherSuites)
			if x.CACredentialName != "" {
				t.line(depth+2, "ca of %q", x.CACredentialName)
			}
		}
	}
	for _, c := range l.all() {
		t.chain(depth, c)
	}
}

func (t *text) chain(depth int, c *gatewayChain) {
	if len(c.sni) > 0 {
		end := "passed through"
		if c.server != nil {
			end = fmt.Sprintf("ends at server %q", c.server.Name)
		}
		t.line(depth, "sni %v %s", c.sni, end)
	}
	for _, v := range c.vhostList {
		t.line(depth, "routes %s", v.pattern)
		t.routes(v.routes)
	}
	if c.route != nil {
		t.line(depth, "route (%v)", c.route.ref)
		t.destinations(depth+1, c.route.destinations, c.route.total)
	}
}
