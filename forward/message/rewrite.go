// SPDX-License-Identifier: Apache-2.0

package message

import (
	"net/textproto"
	"strings"

	"github.com/egressd/egressd/forward/http1"
	"github.com/egressd/egressd/internal/field"
)

// hopByHop are the fields that end at each hop (RFC 9110, 7.6.1), beside
// those that Connection names.
var hopByHop = [...]string{
	"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate",
	"Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
	"Http2-Settings", // of an upgrade to h2c
}

// hopByHopLengths has a bit for the length of each of them: most fields have another.
var hopByHopLengths = func() (set uint32) {
	for _, n := range hopByHop {
		set |= 1 << len(n)
	}
	return set
}()

func isHopByHop(name string) bool {
	if len(name) > 31 || hopByHopLengths&(1<<len(name)) == 0 {
		return false
	}
	for _, n := range hopByHop {
		if field.Same(n, name) {
			return true
		}
	}
	return false
}

// RemoveHopByHop removes what is not for the next hop from h.
func RemoveHopByHop(h *field.List) {
	removeNamed(h)
	h.DelFunc(func(f *field.Entry) bool { return isHopByHop(f.Name) })
}

// removeNamed removes the fields that Connection names, but for those that are hop
// by hop anyway.
func removeNamed(h *field.List) {
	var space [http1.MaxOptions]string
	names := space[:0]
	for i := h.Index("Connection", 0); i >= 0; i = h.Index("Connection", i+1) {
		for name := range strings.SplitSeq((*h)[i].Value, ",") {
			if name = textproto.TrimString(name); name != "" && !isHopByHop(name) && len(names) < cap(names) {
				names = append(names, name)
			}
		}
	}
	if len(names) > 0 {
		h.DelFunc(func(f *field.Entry) bool { return ContainsName(names, f.Name) })
	}
}

// ConnectionOptions are what goes on of Connection, or is said there by us.
type ConnectionOptions struct {
	KeepAlive, Close, Upgrade, TE bool
}

// Apply removes from h what is not for the next hop. Connection says what o says, in
// its old place; own: Keep-Alive stays; coding: Transfer-Encoding and
// Trailer do.
func (o *ConnectionOptions) Apply(h *field.List, own, coding bool) {
	removeNamed(h)
	h.DelFunc(func(f *field.Entry) bool {
		switch {
		case !isHopByHop(f.Name) || field.Same(f.Name, "Connection"):
			return false
		case field.Same(f.Name, "Keep-Alive"):
			return !own
		case field.Same(f.Name, "Te"):
			return !field.Same(f.Value, "trailers")
		case field.Same(f.Name, "Transfer-Encoding"), field.Same(f.Name, "Trailer"):
			return !coding
		case field.Same(f.Name, "Upgrade"):
			return !o.Upgrade
		}
		return true
	})
	i := h.Index("Connection", 0)
	if i >= 0 && h.Index("Connection", i+1) < 0 && o.are((*h)[i].Value) {
		return // as it was sent
	}
	var list [4]string
	if said := o.list(list[:0]); len(said) > 0 {
		h.Set("Connection", strings.Join(said, ", "))
	} else if i >= 0 {
		h.Del("Connection")
	}
}

func (o *ConnectionOptions) list(into []string) []string {
	for _, x := range [...]struct {
		is   bool
		name string
	}{{o.KeepAlive, "keep-alive"}, {o.Upgrade, "Upgrade"}, {o.TE, "TE"}, {o.Close, "close"}} {
		if x.is {
			into = append(into, x.name)
		}
	}
	return into
}

// are says whether a Connection field says just what o does.
func (o *ConnectionOptions) are(value string) bool {
	var said ConnectionOptions
	for option := range strings.SplitSeq(value, ",") {
		switch option = textproto.TrimString(option); {
		case field.Same(option, "keep-alive"):
			said.KeepAlive = true
		case field.Same(option, "close"):
			said.Close = true
		case field.Same(option, "Upgrade"):
			said.Upgrade = true
		case field.Same(option, "TE"):
			said.TE = true
		default:
			return false
		}
	}
	return said == *o
}

// UpgradeType is the protocol that h asks to upgrade to, "" for none. An
// upgrade to another HTTP or to TLS counts as none, which a server may always
// do (RFC 9110, 7.8): within it requests would pass that nobody decides.
func UpgradeType(h field.List) string {
	i := h.Index("Upgrade", 0)
	if i < 0 || h.Index("Upgrade", i+1) >= 0 || !h.HasToken("Connection", "upgrade") {
		return ""
	}
	protocol := h[i].Value
	name, _, _ := strings.Cut(strings.ToLower(protocol), "/")
	switch name {
	case "h2c", "h2", "http", "tls":
		return ""
	}
	if strings.Contains(protocol, ",") {
		return "" // a choice of several, one of which may be such
	}
	return protocol
}

// ContainsName says whether a name is among some, whatever its case.
func ContainsName(names []string, name string) bool {
	for _, n := range names {
		if field.Same(n, name) {
			return true
		}
	}
	return false
}
