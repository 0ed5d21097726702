// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"strings"
)

// travels sets what DestinationRules say of the way to u. Whom certificates are for,
// a service may say as well.
func (u *Upstream) travels(t *TrafficPolicy) {
	if tls := t.Originated(); tls != nil && len(tls.SubjectAltNames) == 0 && len(u.sans) > 0 && !tls.InsecureSkipVerify {
		own, secured := *t, *tls
		secured.SubjectAltNames = u.sans
		own.TLS, t = &secured, &own
	}
	u.Traffic, u.transport, u.Failover = t, t.Transport(), nil
}

// Transport tells ways to make a connection to u apart; "" is plain TCP.
func (u *Upstream) Transport() string {
	if u.transport != "" {
		return u.transport
	}
	return u.Traffic.Transport()
}

// TLS is how egressd originates TLS to u; nil: it does not.
func (u *Upstream) TLS() *ClientTLS { return u.Traffic.Originated() }

// For returns u for requests to a host, which is whom TLS is originated for. Where
// none is, u is returned as it is.
func (u *Upstream) For(host string) *Upstream {
	if u == nil || u.Transport() == "" || u.ServerName == host {
		return u
	}
	out := *u
	out.ServerName = host
	return &out
}

// untransported says which way to make connections to u egressd does not have; ""
// when it has all that is asked for.
func (u *Upstream) untransported() string {
	if u.Transport() == "" {
		return ""
	}
	switch t := u.Traffic; {
	case t.TLS != nil && t.TLS.Mode == TLSIstioMutual:
		return "TLS origination (" + t.TLS.Mode.String() + ")"
	case t.TLS != nil && t.TLS.Refused != "":
		return "TLS origination with " + t.TLS.Refused
	case t.Tunnel != nil && t.Tunnel.Protocol == "POST":
		return "a tunnel by POST: use CONNECT"
	case t.Tunnel != nil && t.ProxyProtocol != 0:
		return "a tunnel and the PROXY protocol at once"
	}
	return ""
}

// how says how connections to u are made, for people.
func (u *Upstream) how() string {
	var out []string
	if v := u.Traffic.ProxyProtocol; v != 0 {
		out = append(out, fmt.Sprintf("a header of the PROXY protocol, version %d, says who connects", v))
	}
	if t := u.TLS(); t != nil {
		out = append(out, t.How())
	}
	if t := u.Traffic.Tunnel; t != nil {
		out = append(out, fmt.Sprintf("it asks the proxy there by CONNECT for %s port %d", t.TargetHost, t.TargetPort))
	}
	return strings.Join(out, ", then ")
}
