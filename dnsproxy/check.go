// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"github.com/miekg/dns"
)

// checker is who asks in Check.
const checker = "egressd"

// Check asks the UDP listener at addr a question that needs no server, as a
// workload would, and returns an error unless it is answered before ctx ends.
func (s *Server) Check(ctx context.Context, addr net.Addr) error {
	c, err := (&net.Dialer{}).DialContext(ctx, "udp", addr.String())
	if err != nil {
		return fmt.Errorf("ask the DNS proxy: %w", err)
	}
	defer c.Close()
	if end, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(end) // it is open
	}
	req := new(dns.Msg).SetQuestion("localhost.", dns.TypeA)
	raw, err := req.Pack()
	if err != nil {
		return err
	}
	src := addrPort(c.LocalAddr())
	s.checking.Store(src, string(raw))
	defer s.checking.Delete(src)
	if _, err := c.Write(raw); err != nil {
		return fmt.Errorf("ask the DNS proxy: %w", err)
	}
	rep, err := (&dns.Conn{Conn: c}).ReadMsg()
	if err != nil {
		return fmt.Errorf("the DNS proxy does not answer: %w", err)
	}
	if rep.Id != req.Id || rep.Rcode != dns.RcodeSuccess {
		return fmt.Errorf("the DNS proxy answers %s", dns.RcodeToString[rep.Rcode])
	}
	return nil
}

// isCheck says whether a query is that of Check.
func (s *Server) isCheck(src netip.AddrPort, query []byte) bool {
	raw, ok := s.checking.Load(src)
	return ok && raw == string(query)
}
