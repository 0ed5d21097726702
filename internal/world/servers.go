// SPDX-License-Identifier: Apache-2.0

package world

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
)

// Greeting is what the database says first: the start of a MariaDB handshake
// (protocol 10), a packet of 27 bytes with its 4-byte header.
const Greeting = "\x17\x00\x00\x00\x0a10.11.6-MariaDB-world\x00"

// Server is a TCP or UDP service of the little internet. After an optional
// greeting it echoes.
type Server struct {
	Addr netip.AddrPort
	// UDP says that Addr is a UDP address.
	UDP bool

	greeting string
	hits     atomic.Int64
	mu       sync.Mutex
	conns    map[net.Conn]struct{} // nil after close
	closer   io.Closer
	running  sync.WaitGroup
}

// Hits counts the connections or datagrams that reached the server.
func (s *Server) Hits() int { return int(s.hits.Load()) }

// AddTCP starts a TCP echo server on an address of the internet, which is
// added if it is new. A non-empty greeting is sent before anything is read.
func (w *World) AddTCP(addr netip.AddrPort, greeting string) (*Server, error) {
	if err := w.Net.Do(func() error { return addHost(addr.Addr()) }); err != nil {
		return nil, err
	}
	ln, err := w.Net.Listen(addr)
	if err != nil {
		return nil, err
	}
	s := &Server{Addr: addr, greeting: greeting, conns: map[net.Conn]struct{}{}, closer: ln}
	s.running.Go(func() { s.accept(ln) })
	w.onClose(s.close)
	return s, nil
}

// AddUDP starts a UDP echo server on an address of the internet, which is
// added if it is new.
func (w *World) AddUDP(addr netip.AddrPort) (*Server, error) {
	if err := w.Net.Do(func() error { return addHost(addr.Addr()) }); err != nil {
		return nil, err
	}
	pc, err := w.Net.ListenPacket(addr)
	if err != nil {
		return nil, err
	}
	s := &Server{Addr: addr, UDP: true, closer: pc}
	s.running.Go(func() { s.echoPackets(pc) })
	w.onClose(s.close)
	return s, nil
}

// Close ends the server before its world does, so that another program can
// have its address.
func (s *Server) Close() { s.close() }

// accept serves connections until the listener is closed.
func (s *Server) accept(ln net.Listener) {
	for {
		conn, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		s.hits.Add(1)
		s.mu.Lock()
		if s.conns == nil {
			_ = conn.Close()
		} else {
			s.conns[conn] = struct{}{}
			s.running.Go(func() { s.echo(conn) })
		}
		s.mu.Unlock()
	}
}

// echo serves one connection; a half-close by the client is answered with one.
func (s *Server) echo(conn net.Conn) {
	defer func() {
		_ = conn.Close()
		s.mu.Lock()
		delete(s.conns, conn)
		s.mu.Unlock()
	}()
	if _, err := io.WriteString(conn, s.greeting); err != nil {
		return
	}
	_, _ = io.Copy(conn, conn) // until either side closes
}

// echoPackets sends each datagram back to where it came from.
func (s *Server) echoPackets(pc net.PacketConn) {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := pc.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error of an earlier answer
		}
		s.hits.Add(1)
		_, _ = pc.WriteTo(buf[:n], from) // the client may be gone
	}
}

// close ends the server and its connections.
func (s *Server) close() {
	_ = s.closer.Close()
	s.mu.Lock()
	for conn := range s.conns {
		_ = conn.Close()
	}
	s.conns = nil
	s.mu.Unlock()
	s.running.Wait()
}

// AddDNS starts another DNS server on an address of the internet, which is added
// if it is new. It has names of its own.
func (w *World) AddDNS(addrs ...netip.Addr) (*DNS, error) {
	d := newDNS()
	w.onClose(d.close)
	for _, a := range addrs {
		if err := w.Net.Do(func() error { return addHost(a) }); err != nil {
			return nil, err
		}
		if err := d.listen(w.Net, netip.AddrPortFrom(a, 53)); err != nil {
			return nil, fmt.Errorf("DNS server: %w", err)
		}
	}
	return d, nil
}
