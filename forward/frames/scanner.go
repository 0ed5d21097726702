// SPDX-License-Identifier: Apache-2.0

package frames

import (
	"encoding/binary"
	"strconv"
	"sync"
)

// lock is the mutex of a FloodGuard.
type lock = sync.Mutex

// frame is what a scanner says of one.
type frame struct {
	kind, flags byte
	length      int // of the payload, with padding
	stream      uint32
	first       []byte // bytes of the payload, peekLen at the most
}

// content is how much of the payload is no padding, in bytes (RFC 9113, 6.1 and 6.2).
func (f frame) content() int {
	if f.flags&flagPadded == 0 || f.length == 0 {
		return f.length
	}
	return f.length - 1 - int(f.first[0])
}

// code is the error of an RST_STREAM.
func (f frame) code() uint32 {
	if len(f.first) < peekLen {
		return 0
	}
	return binary.BigEndian.Uint32(f.first)
}

// names are those of frames, by their type; what has another one means nothing.
var names = [...]string{
	"empty DATA frames", "empty HEADERS frames", "PRIORITY frames", "streams that are reset", "SETTINGS frames", "PUSH_PROMISE frames",
	"PING frames", "GOAWAY frames", "WINDOW_UPDATE frames", "CONTINUATION frames with next to nothing in them",
}

func (f frame) name() string {
	if int(f.kind) < len(names) {
		return names[f.kind]
	}
	return "frames of type " + strconv.Itoa(int(f.kind))
}

// scanner finds frames in a stream of bytes.
type scanner struct {
	skip int  // bytes that are of no interest
	kind byte // of the frame that they are of
	// open: a header has begun that is not complete.
	open bool
	have int // how much of head is there
	head [headerLen + peekLen]byte
}

// within says whether the stream is in the middle of a frame.
func (s *scanner) within() bool { return s.skip > 0 || s.have > 0 }

// withinHead says whether the stream is in the middle of a header, which may have
// several frames, or of what may be the beginning of one.
func (s *scanner) withinHead() bool {
	return s.open || s.have > 0 || s.skip > 0 && s.kind == typeHeaders
}

// scan calls each for every frame of which p has the last byte that is of interest.
func (s *scanner) scan(p []byte, each func(frame)) {
	for len(p) > 0 {
		if s.skip > 0 {
			n := min(s.skip, len(p))
			s.skip -= n
			p = p[n:]
			continue
		}
		n := copy(s.head[s.have:s.want()], p)
		s.have += n
		p = p[n:]
		if s.have < headerLen || s.have < s.want() {
			continue
		}
		f := frame{
			kind: s.head[3], flags: s.head[4], length: s.length(),
			stream: binary.BigEndian.Uint32(s.head[5:]) &^ (1 << 31), first: s.head[headerLen:s.have],
		}
		s.skip, s.kind = f.length-(s.have-headerLen), f.kind
		if f.kind == typeHeaders || f.kind == typeContinuation {
			s.open, s.kind = f.flags&flagEndHeaders == 0, typeHeaders
		}
		s.have = 0
		each(f)
	}
}

// length is that of the payload; the header is there.
func (s *scanner) length() int {
	return int(s.head[0])<<16 | int(s.head[1])<<8 | int(s.head[2])
}

// want is how much of head is needed.
func (s *scanner) want() int {
	if s.have < headerLen {
		return headerLen
	}
	return headerLen + min(s.length(), peekLen)
}
