// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/policy"
)

// maxQuery is the longest query that is read. A name has 255 bytes
// at most; the rest is room for EDNS options and a signature.
const maxQuery = 4096

// serveUDP reads queries from pc until ctx is done; work is the context of
// the answers.
func (s *Server) serveUDP(ctx, work context.Context, handlers *sync.WaitGroup, pc net.PacketConn, slot int) error {
	buf := make([]byte, maxQuery)
	failures := 0
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, net.ErrClosed) || !pause(ctx, failures) {
				return fmt.Errorf("read DNS queries: %w", err)
			}
			failures++
			continue
		}
		failures = 0
		client, ok := s.origin(from, pc, slot, buf[:n])
		if client.Probe == nil {
			s.stats.add(cQueryUDP)
		}
		if !ok {
			continue
		}
		raw := slices.Clone(buf[:n])
		account := s.account(client)
		if !s.queries.acquire(account) {
			s.sendUDP(pc, from, client, s.overloaded(client, policy.UDP, raw))
			continue
		}
		handlers.Go(func() {
			defer s.queries.release(account)
			s.sendUDP(pc, from, client, s.reply(work, client, policy.UDP, raw))
		})
	}
}

// sendUDP replies from the socket that the query came in on: the client's
// socket may be connected, and the kernel undoes the redirect by this address.
func (s *Server) sendUDP(pc net.PacketConn, to net.Addr, c Client, out []byte) {
	if out == nil {
		return
	}
	var err error
	if udp, ok := pc.(*net.UDPConn); ok && c.AsServer {
		_, _, err = udp.WriteMsgUDP(out, sourceOf(c.Server.Addr()), to.(*net.UDPAddr))
	} else {
		_, err = pc.WriteTo(out, to)
	}
	if err != nil {
		s.stats.add(cSendFailed)
		s.log.Debug("answer not sent", "error", err)
	}
}

// sourceOf is the control message that lets a datagram leave with an address
// (ip(7) IP_PKTINFO, ipv6(7) IPV6_PKTINFO).
func sourceOf(a netip.Addr) []byte {
	if a.Is4() {
		return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: a.As4()})
	}
	return unix.PktInfo6(&unix.Inet6Pktinfo{Addr: a.As16()})
}

// origin looks the sender of a datagram up. One without a record was not
// redirected by the kernel: somebody dialled the listener itself.
func (s *Server) origin(from net.Addr, pc net.PacketConn, slot int, query []byte) (Client, bool) {
	src, local := addrPort(from), addrPort(pc.LocalAddr())
	c, ok := s.origins.OfDatagram(src, local, slot, query)
	if !ok {
		s.noOrigin(policy.UDP, src)
	}
	return c, ok
}

func (s *Server) noOrigin(t policy.Transport, src netip.AddrPort) {
	s.stats.add(cNoOrigin)
	s.log.Debug("query dropped", "reason", policy.ReasonNoOrigin, "from", src, "transport", t)
}

// addrPort is an address of a socket; IPv4 is unmapped.
func addrPort(a net.Addr) netip.AddrPort {
	var out netip.AddrPort
	switch a := a.(type) {
	case *net.UDPAddr:
		out = a.AddrPort()
	case *net.TCPAddr:
		out = a.AddrPort()
	}
	return netip.AddrPortFrom(out.Addr().Unmap().WithZone(""), out.Port())
}
