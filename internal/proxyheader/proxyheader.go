// SPDX-License-Identifier: Apache-2.0

// Package proxyheader reads the PROXY protocol's header, by which a proxy says
// where a connection that it passes on comes from (HAProxy's
// doc/proxy-protocol.txt, versions 1 and 2).
package proxyheader

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
)

// Bounds of a header, in bytes: of version 1, with its line end (2.1 there), and of
// what follows the first 16 of version 2, which may have more fields than anybody
// reads.
const (
	maxLine = 107
	maxRest = 4 << 10
)

var signature = []byte("\r\n\r\n\x00\r\nQUIT\n")

// ErrNone: what came is no PROXY header.
var ErrNone = errors.New("no PROXY protocol header")

// Read reads a header, and nothing behind it. The source is invalid when the header
// has none: the proxy speaks for itself, or does not know. The error is the
// reader's when nothing has come.
func Read(r io.Reader) (src netip.AddrPort, err error) {
	var first [16]byte // no header has fewer bytes but "PROXY UNKNOWN", which has 15
	if _, err := io.ReadFull(r, first[:1]); err != nil {
		return src, err
	}
	switch first[0] {
	case 'P':
		return readLine(r, first[:1])
	case signature[0]:
	default:
		return src, ErrNone
	}
	if _, err := io.ReadFull(r, first[1:]); err != nil {
		return src, short(err)
	}
	if !bytes.Equal(first[:len(signature)], signature) {
		return src, ErrNone
	}
	if first[12]>>4 != 2 {
		return src, fmt.Errorf("PROXY protocol version %d is not known", first[12]>>4)
	}
	n := int(binary.BigEndian.Uint16(first[14:]))
	if n > maxRest {
		return src, fmt.Errorf("a PROXY protocol header of %d bytes is too long", n)
	}
	rest := make([]byte, n)
	if _, err := io.ReadFull(r, rest); err != nil {
		return src, short(err)
	}
	return source(first[12]&0xf, first[13], rest)
}

// source is the source address in a header of version 2.
func source(command, family byte, rest []byte) (src netip.AddrPort, err error) {
	switch command {
	case 0: // LOCAL: the proxy's own, a health check
		return src, nil
	case 1: // PROXY
	default:
		return src, fmt.Errorf("PROXY protocol command %d is not known", command)
	}
	size := map[byte]int{0x11: 4, 0x21: 16}[family] // TCP over IPv4 and IPv6
	if size == 0 {
		return src, nil // unspecified, UDP, unix
	}
	if len(rest) < 2*size+4 {
		return src, errors.New("a PROXY protocol header is too short for its addresses")
	}
	a, _ := netip.AddrFromSlice(rest[:size]) // of a size that it has
	return netip.AddrPortFrom(a.Unmap(), binary.BigEndian.Uint16(rest[2*size:])), nil
}

// readLine reads a header of version 1. Only the header is read, so byte by byte.
func readLine(r io.Reader, line []byte) (src netip.AddrPort, err error) {
	line = append(make([]byte, 0, maxLine), line...)
	for !bytes.HasSuffix(line, []byte("\r\n")) {
		if len(line) == maxLine {
			return src, errors.New("a PROXY protocol header is too long")
		}
		if n := min(len(line), 6); string(line[:n]) != "PROXY "[:n] {
			return src, ErrNone
		}
		line = line[:len(line)+1]
		if _, err := io.ReadFull(r, line[len(line)-1:]); err != nil {
			return src, short(err)
		}
	}
	parts := strings.Split(string(line[:len(line)-2]), " ")
	if len(parts) < 2 || parts[0] != "PROXY" {
		return src, ErrNone
	}
	switch parts[1] {
	case "UNKNOWN":
		return src, nil
	case "TCP4", "TCP6":
	default:
		return src, fmt.Errorf("PROXY protocol family %q is not known", parts[1])
	}
	if len(parts) != 6 {
		return src, errors.New("a PROXY protocol header does not have two addresses and two ports")
	}
	a, err := address(parts[1], parts[2], parts[4])
	if err != nil {
		return src, err
	}
	if _, err = address(parts[1], parts[3], parts[5]); err != nil {
		return src, err
	}
	return a, nil
}

// address reads an address of a family, and a port.
func address(family, addr, port string) (netip.AddrPort, error) {
	a, err := netip.ParseAddr(addr)
	n, perr := strconv.ParseUint(port, 10, 16)
	if err != nil || perr != nil || a.Zone() != "" || a.Is4() != (family == "TCP4") {
		return netip.AddrPort{}, fmt.Errorf("a PROXY protocol header of %s has the address %q and port %q", family, addr, port)
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(n)), nil
}

// short is the error of a reader that ends within a header.
func short(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the connection ended within the PROXY protocol header")
	}
	return err
}
