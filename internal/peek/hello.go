// SPDX-License-Identifier: Apache-2.0

package peek

// HelloStatus says how far a ClientHello was understood.
type HelloStatus uint8

// The states of a ClientHello.
const (
	// More: b is a valid prefix; more bytes are needed.
	More HelloStatus = iota
	// OK: the hello is complete and well-formed.
	OK
	// Malformed: no further bytes can make b a ClientHello.
	Malformed
)

var statusNames = [...]string{"more", "ok", "malformed"}

func (s HelloStatus) String() string {
	if int(s) < len(statusNames) {
		return statusNames[s]
	}
	return "?"
}

// Hello is what a ClientHello says about where it wants to go.
type Hello struct {
	// SNI is the host_name of the server_name extension, as sent: upper case
	// and IP literals (which RFC 6066 forbids) are the caller's to judge.
	SNI    string
	HasSNI bool
	// ALPN are the offered protocols, in the client's order.
	ALPN []string
	// ECH says that encrypted_client_hello (RFC 9849, 0xfe0d) is present, in
	// earnest or as grease; SNI is then the outer name.
	ECH bool
	// EarlyData says that the client announces early data (RFC 8446 section
	// 4.2.10).
	EarlyData bool
	// Wire is how many bytes the hello and its record headers take.
	Wire int
}

// Sizes in bytes.
const (
	// MaxHello is the longest handshake message, with its header, that
	// ClientHello accepts.
	MaxHello = 64 << 10
	// MaxHelloBytes bounds what a hello of MaxHello may take on the wire,
	// however it is cut into records; a caller need not buffer more.
	MaxHelloBytes = 2 * MaxHello

	recordHeader    = 5
	handshakeHeader = 4
	maxRecord       = 1 << 14 // RFC 8446, 5.1
)

// Numbers of RFC 8446 and the extensions' own documents.
const (
	recordHandshake      = 22
	handshakeClientHello = 1
	nameTypeHost         = 0

	extServerName = 0
	extALPN       = 16
	extECH        = 0xfe0d
	extEarlyData  = 42
)

// ClientHello reads a ClientHello from the first bytes b of a connection. It
// accepts one that is split over several records and is strict about
// everything that would let a server see another name than the one returned:
// an extension twice, two names, trailing bytes and bytes that no name has
// are Malformed (RFC 8446 4.2, RFC 6066 3).
func ClientHello(b []byte) (Hello, HelloStatus) {
	msg, rest, st := handshake(b)
	if st != OK {
		return Hello{}, st
	}
	h, ok := parseHello(msg[handshakeHeader:])
	if !ok {
		return Hello{}, Malformed
	}
	h.Wire = len(b) - len(rest)
	return h, OK
}

// handshake joins the records in b to one handshake message, with its header;
// rest is what comes behind. A hello in one record, the usual case, is not copied.
func handshake(b []byte) (msg, rest []byte, st HelloStatus) {
	total := len(b)
	for first := true; ; first = false {
		fragment, rest, st := record(b)
		if st == Malformed {
			return nil, nil, Malformed
		}
		if first {
			msg = fragment[:len(fragment):len(fragment)]
		} else {
			msg = append(msg, fragment...)
		}
		if len(msg) > 0 && msg[0] != handshakeClientHello {
			return nil, nil, Malformed
		}
		if len(msg) >= handshakeHeader {
			size := handshakeHeader + (int(msg[1])<<16 | int(msg[2])<<8 | int(msg[3]))
			switch {
			case size > MaxHello || len(msg) > size:
				// Nothing may follow the hello in its record: the client has
				// to hear from the server first.
				return nil, nil, Malformed
			case len(msg) == size && st == OK:
				return msg, rest, OK
			}
		}
		if st == More {
			// One-byte records would make the bytes on the wire six times
			// the message; nobody sends them, and buffers are bounded.
			if total > MaxHelloBytes {
				return nil, nil, Malformed
			}
			return nil, nil, More
		}
		b = rest
	}
}

// record takes one handshake record off b. With More, fragment is the part of
// it that is there.
func record(b []byte) (fragment, rest []byte, st HelloStatus) {
	if len(b) > 0 && b[0] != recordHandshake || len(b) > 1 && b[1] != 3 {
		return nil, nil, Malformed
	}
	if len(b) < recordHeader {
		return nil, nil, More
	}
	n := int(b[3])<<8 | int(b[4])
	if n == 0 || n > maxRecord { // RFC 8446, 5.1: no empty handshake fragments
		return nil, nil, Malformed
	}
	b = b[recordHeader:]
	if len(b) < n {
		return b, nil, More
	}
	return b[:n], b[n:], OK
}

// parseHello reads the body of a ClientHello (RFC 8446, 4.1.2).
func parseHello(body []byte) (h Hello, ok bool) {
	r := reader{b: body}
	r.skip(2 + 32) // legacy_version, random
	if session := r.vector8(); len(session) > 32 {
		return h, false
	}
	if suites := r.vector16(); len(suites) < 2 || len(suites)%2 != 0 {
		return h, false
	}
	if compression := r.vector8(); len(compression) == 0 {
		return h, false
	}
	if r.failed {
		return h, false
	}
	if len(r.b) == 0 {
		return h, true // no extensions at all: TLS 1.2 and older
	}
	list := reader{b: r.vector16()}
	if r.failed || len(r.b) != 0 {
		return h, false
	}
	return h, h.extensions(&list)
}

// extensions reads the extension list; an extension twice is an error (RFC
// 8446, 4.2), checked for all of them as servers differ in which one counts.
func (h *Hello) extensions(list *reader) bool {
	var seen [1 << 16 / 64]uint64
	for len(list.b) > 0 {
		id := list.uint16()
		data := list.vector16()
		if list.failed || seen[id/64]&(1<<(id%64)) != 0 {
			return false
		}
		seen[id/64] |= 1 << (id % 64)
		ok := true
		switch id {
		case extServerName:
			h.SNI, ok = parseServerName(data)
			h.HasSNI = ok
		case extALPN:
			h.ALPN, ok = parseALPN(data)
		case extECH:
			h.ECH = true
		case extEarlyData:
			h.EarlyData = true
		}
		if !ok {
			return false
		}
	}
	return true
}

// parseServerName reads a ServerNameList (RFC 6066, 3). The list must hold
// exactly one host_name: no other name type was ever defined, and a server
// may read what follows one in its own way.
func parseServerName(data []byte) (string, bool) {
	r := reader{b: data}
	list := reader{b: r.vector16()}
	if r.failed || len(r.b) != 0 {
		return "", false
	}
	kind := list.uint8()
	name := withoutRootDot(list.vector16())
	if list.failed || len(list.b) != 0 || kind != nameTypeHost || !plausibleName(name) {
		return "", false
	}
	return string(name), true
}

// withoutRootDot takes the last dot off an absolute name (RFC 1034, 3.1): it is the
// same name.
func withoutRootDot(name []byte) []byte {
	if n := len(name); n > 1 && name[n-1] == '.' {
		return name[:n-1]
	}
	return name
}

// plausibleName refuses what no server may treat as a host name: empty, over
// 255 bytes, NUL, spaces, other control or non-ASCII bytes, a dot at the end.
func plausibleName(name []byte) bool {
	if len(name) == 0 || len(name) > 255 || name[len(name)-1] == '.' {
		return false
	}
	for _, c := range name {
		if c <= ' ' || c >= 0x7f {
			return false
		}
	}
	return true
}

// parseALPN reads a ProtocolNameList (RFC 7301, 3.1).
func parseALPN(data []byte) ([]string, bool) {
	r := reader{b: data}
	list := reader{b: r.vector16()}
	if r.failed || len(r.b) != 0 || len(list.b) == 0 {
		return nil, false
	}
	var names []string
	for len(list.b) > 0 {
		name := list.vector8()
		if list.failed || len(name) == 0 {
			return nil, false
		}
		names = append(names, string(name))
	}
	return names, true
}

// reader takes fields off b. After a read past the end failed is set and
// every further read yields zero.
type reader struct {
	b      []byte
	failed bool
}

func (r *reader) skip(n int) { r.take(n) }

func (r *reader) take(n int) []byte {
	if r.failed || len(r.b) < n {
		r.failed, r.b = true, nil
		return nil
	}
	v := r.b[:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) uint8() uint8 {
	if v := r.take(1); v != nil {
		return v[0]
	}
	return 0
}

func (r *reader) uint16() uint16 {
	if v := r.take(2); v != nil {
		return uint16(v[0])<<8 | uint16(v[1])
	}
	return 0
}

func (r *reader) vector8() []byte  { return r.take(int(r.uint8())) }
func (r *reader) vector16() []byte { return r.take(int(r.uint16())) }
