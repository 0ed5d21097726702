// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"slices"
	"strconv"
	"strings"

	"github.com/egressd/egressd/internal/peek/peektest"
)

// rooted is a hello whose name has dots at its end, which crypto/tls would leave
// out.
func rooted(name, dots string) []byte {
	stands := name + strings.Repeat("x", len(dots))
	return bytes.Replace(hello(&tls.Config{ServerName: stands}), []byte(stands), []byte(name+dots), 1)
}

// firstBytes makes what a client of some kind sends first.
func firstBytes(kind, name string) []byte {
	switch kind {
	case "hello":
		return hello(&tls.Config{ServerName: name})
	case "classic":
		return hello(&tls.Config{ServerName: name, MaxVersion: tls.VersionTLS12, CurvePreferences: []tls.CurveID{tls.CurveP256}})
	case "long": // a hello of about 16 KB
		c := &tls.Config{ServerName: name}
		for i := range 64 {
			c.NextProtos = append(c.NextProtos, strings.Repeat("x", 240)+strconv.Itoa(i))
		}
		return hello(c)
	case "nosni":
		return hello(&tls.Config{InsecureSkipVerify: true})
	case "early": // a second record behind the hello
		return append(hello(&tls.Config{ServerName: name}), 20, 3, 3, 0, 1, 1)
	case "resumed": // and what a resumed session of TLS 1.2 says next
		return slices.Concat(hello(&tls.Config{ServerName: name}), ccs, record(22, bytes.Repeat([]byte{0xa7}, 40)))
	case "client-key": // of TLS 1.2
		return append(hello(&tls.Config{ServerName: name}), record(22, []byte{16, 0, 0, 2, 1, 1})...)
	case "alert":
		return append(hello(&tls.Config{ServerName: name}), record(21, []byte{1, 0})...)
	case "retry": // the second hello that a HelloRetryRequest asks for
		return slices.Concat(hello(&tls.Config{ServerName: name}), ccs, hello(&tls.Config{ServerName: name}), record(23, []byte("data")))
	case "rooted": // with the dot of the root
		return rooted(name, ".")
	case "rooted-twice":
		return rooted(name, "..")
	case "rooted-retry": // only the first hello has it
		return slices.Concat(rooted(name, "."), ccs, hello(&tls.Config{ServerName: name}))
	case "retry-rooted": // only the second one has it
		return slices.Concat(hello(&tls.Config{ServerName: name}), ccs, rooted(name, "."))
	case "retry-rooted-twice":
		return slices.Concat(hello(&tls.Config{ServerName: name}), ccs, rooted(name, ".."))
	case "retry-other":
		return slices.Concat(hello(&tls.Config{ServerName: goodName}), ccs, hello(&tls.Config{ServerName: name}))
	case "retry-other-plain": // without a change_cipher_spec
		return slices.Concat(hello(&tls.Config{ServerName: goodName}), hello(&tls.Config{ServerName: name}))
	case "retry-other-pieces":
		return slices.Concat(hello(&tls.Config{ServerName: goodName}), ccs, reframe(hello(&tls.Config{ServerName: name}), 3))
	case "retry-other-alert": // a warning that servers ignore
		return slices.Concat(hello(&tls.Config{ServerName: goodName}), record(21, []byte{1, 90}), ccs, hello(&tls.Config{ServerName: name}))
	case "retry-other-early": // behind early data, which the server skips
		return slices.Concat(earlyHello(goodName), ccs, record(23, bytes.Repeat([]byte{9}, 7000)), hello(&tls.Config{ServerName: name}))
	case "retry-early":
		return slices.Concat(earlyHello(name), ccs, record(23, bytes.Repeat([]byte{9}, 500)), hello(&tls.Config{ServerName: name}))
	case "retry-nosni":
		h := hello(&tls.Config{ServerName: "192.0.2.1", InsecureSkipVerify: true})
		return slices.Concat(hello(&tls.Config{ServerName: name}), ccs, h)
	case "retry-longer": // the first name is the beginning of the second
		return slices.Concat(hello(&tls.Config{ServerName: name}), ccs, hello(&tls.Config{ServerName: name + "x"}))
	case "twice": // server_name twice
		return patchSNI(hello(&tls.Config{ServerName: name}), func(ext []byte) []byte {
			return append(bytes.Clone(ext), ext...)
		})
	case "nul":
		h := hello(&tls.Config{ServerName: name})
		return bytes.Replace(h, []byte(name), append([]byte(name)[:len(name)-1], 0), 1)
	case "sni": // the name as it is, whatever is in it
		return patchSNI(hello(&tls.Config{ServerName: "some.example"}), func([]byte) []byte { return serverName(name) })
	case "http":
		return []byte("GET / HTTP/1.1\r\nHost: " + name + "\r\n\r\n")
	case "ssh":
		return []byte("SSH-2.0-client\r\n")
	case "junk":
		return bytes.Repeat([]byte{0x17}, 64)
	case "halfjunk":
		h := hello(&tls.Config{ServerName: name})
		for i := 9; i < len(h); i++ {
			h[i] = 0xff
		}
		return h
	}
	panic(kind)
}

// hello lets crypto/tls write a ClientHello.
func hello(c *tls.Config) []byte {
	wire, err := peektest.ClientHello(c)
	if err != nil {
		panic(err) // of a client: the test reads what it says
	}
	return wire
}

// payload is what the records of data carry.
// ccs is a change_cipher_spec.
var ccs = record(20, []byte{1})

// record is a TLS record.
func record(typ byte, data []byte) []byte {
	return append([]byte{typ, 3, 3, byte(len(data) >> 8), byte(len(data))}, data...)
}

// earlyHello announces early data (RFC 8446 section 4.2.10).
func earlyHello(name string) []byte {
	return addExtension(hello(&tls.Config{ServerName: name}), []byte{0, 42, 0, 0})
}

// addExtension puts one more extension behind those of a hello in one record.
func addExtension(h, ext []byte) []byte {
	at := 5 + 4 + 34
	at += 1 + int(h[at])
	at += 2 + int(binary.BigEndian.Uint16(h[at:]))
	at += 1 + int(h[at])
	grow := func(at, size int) {
		n := uint64(len(ext))
		for i := range size {
			n += uint64(h[at+i]) << (8 * (size - 1 - i))
		}
		for i := range size {
			h[at+i] = byte(n >> (8 * (size - 1 - i)))
		}
	}
	h = slices.Clone(h)
	grow(3, 2)  // the record
	grow(6, 3)  // the message
	grow(at, 2) // the extensions
	return append(h, ext...)
}

func payload(data []byte) []byte {
	var out []byte
	for len(data) > 0 {
		n := 5 + int(binary.BigEndian.Uint16(data[3:]))
		out = append(out, data[5:n]...)
		data = data[n:]
	}
	return out
}

// reframe puts a hello into records of n bytes.
func reframe(data []byte, n int) []byte {
	var out []byte
	for body := payload(data); len(body) > 0; {
		k := min(n, len(body))
		out = append(out, 22, 3, 1, byte(k>>8), byte(k))
		out = append(out, body[:k]...)
		body = body[k:]
	}
	return out
}

// patchSNI changes the server_name extension and puts the lengths right.
func patchSNI(h []byte, change func([]byte) []byte) []byte {
	pos := 5 + 4 + 34
	pos += 1 + int(h[pos])
	pos += 2 + int(binary.BigEndian.Uint16(h[pos:]))
	pos += 1 + int(h[pos])
	var exts []byte
	for rest := h[pos+2:]; len(rest) > 0; {
		n := 4 + int(binary.BigEndian.Uint16(rest[2:]))
		if rest[0] == 0 && rest[1] == 0 {
			exts = append(exts, change(rest[:n])...)
		} else {
			exts = append(exts, rest[:n]...)
		}
		rest = rest[n:]
	}
	body := append(bytes.Clone(h[9:pos]), byte(len(exts)>>8), byte(len(exts)))
	body = append(body, exts...)
	out := append([]byte{22, 3, 1, 0, 0, 1, byte(len(body) >> 16), byte(len(body) >> 8), byte(len(body))}, body...)
	binary.BigEndian.PutUint16(out[3:], uint16(len(body)+4))
	return out
}
