// SPDX-License-Identifier: Apache-2.0

package world

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// askTime bounds Ask where its context has no deadline.
const askTime = 5 * time.Second

// Ask asks a DNS server (address and port) over "udp" or "tcp" for the
// addresses of a name, of type "A" or "AAAA". It returns the name that RFC 1035
// and dig have for the answer's code, and the addresses; the error is about
// getting an answer. It does not use the library that the DNS proxy uses, which
// is what it tries.
func Ask(ctx context.Context, network, server, name, qtype string) (rcode string, addrs []netip.Addr, err error) {
	id := uint16(rand.Uint32())
	query, err := packQuery(id, name, qtype)
	if err != nil {
		return "", nil, err
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, server)
	if err != nil {
		return "", nil, err
	}
	defer conn.Close()
	until, ok := ctx.Deadline()
	if !ok {
		until = time.Now().Add(askTime)
	}
	if err := conn.SetDeadline(until); err != nil {
		return "", nil, err
	}
	raw, err := exchange(conn, network, query)
	if err != nil {
		return "", nil, err
	}
	var m dnsmessage.Message
	if err := m.Unpack(raw); err != nil {
		return "", nil, err
	}
	if m.ID != id || !m.Response {
		return "", nil, errors.New("not the answer to the question")
	}
	for _, a := range m.Answers {
		switch a := a.Body.(type) {
		case *dnsmessage.AResource:
			addrs = append(addrs, netip.AddrFrom4(a.A))
		case *dnsmessage.AAAAResource:
			addrs = append(addrs, netip.AddrFrom16(a.AAAA))
		}
	}
	return rcodeName(m.RCode), addrs, nil
}

func packQuery(id uint16, name, qtype string) ([]byte, error) {
	types := map[string]dnsmessage.Type{"A": dnsmessage.TypeA, "AAAA": dnsmessage.TypeAAAA}
	if types[qtype] == 0 {
		return nil, errors.New("no type of addresses: " + qtype)
	}
	fqdn, err := dnsmessage.NewName(strings.TrimSuffix(name, ".") + ".")
	if err != nil {
		return nil, err
	}
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: id, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: fqdn, Type: types[qtype], Class: dnsmessage.ClassINET}},
	}
	return m.Pack()
}

// exchange sends a query and reads what comes back; over TCP with the two
// bytes of length in front (RFC 1035, section 4.2.2).
func exchange(conn net.Conn, network string, query []byte) ([]byte, error) {
	if network == "udp" {
		if _, err := conn.Write(query); err != nil {
			return nil, err
		}
		buf := make([]byte, 4096)
		n, err := conn.Read(buf)
		return buf[:n], err
	}
	if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...)); err != nil {
		return nil, err
	}
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return nil, err
	}
	buf := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(conn, buf)
	return buf, err
}

func rcodeName(r dnsmessage.RCode) string {
	switch r {
	case dnsmessage.RCodeSuccess:
		return "NOERROR"
	case dnsmessage.RCodeNameError:
		return "NXDOMAIN"
	case dnsmessage.RCodeServerFailure:
		return "SERVFAIL"
	case dnsmessage.RCodeRefused:
		return "REFUSED"
	}
	return r.String()
}
