// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"net/http"
	"net/textproto"
	"regexp"
	"strings"
	"sync"

	"github.com/egressd/egressd/policy"
)

// rewritePath returns the path that goes upstream.
func (c *expressionCache) rewritePath(rw *policy.Rewrite, m *policy.HTTPMatch, path string) (string, error) {
	switch {
	case rw == nil:
		return path, nil
	case rw.RegexMatch != "":
		re, err := c.get(rw.RegexMatch)
		if err != nil {
			return "", err
		}
		return re.ReplaceAllString(path, goTemplate(rw.RegexRewrite)), nil
	case rw.URI != "":
		return replacePrefix(m, path, rw.URI), nil
	}
	return path, nil
}

// goTemplate turns RE2's \1 into Go's ${1}, and keeps every $ as it is.
func goTemplate(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '$':
			b.WriteString("$$")
		case c == '\\' && i+1 < len(s) && '0' <= s[i+1] && s[i+1] <= '9':
			i++
			b.WriteString("${" + s[i:i+1] + "}")
		case c == '\\' && i+1 < len(s) && s[i+1] == '\\':
			i++
			b.WriteByte('\\')
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// expressionCache keeps the compiled expressions of rewrites by their text.
type expressionCache struct{ m sync.Map }

func (c *expressionCache) get(s string) (*regexp.Regexp, error) {
	if re, ok := c.m.Load(s); ok {
		return re.(*regexp.Regexp), nil
	}
	re, err := regexp.Compile(s)
	if err != nil {
		return nil, err
	}
	c.m.Store(s, re)
	return re, nil
}

// applyOps applies the operations to h in the order remove, set, add. It
// returns the last value given to Host or :authority, "" for none.
func applyOps(h http.Header, ops policy.HeaderOps) (authority string) {
	for _, name := range ops.Remove {
		h.Del(name)
	}
	for _, kv := range ops.Set {
		if isAuthority(kv.Name) {
			authority = kv.Value
			continue
		}
		h.Set(kv.Name, kv.Value)
	}
	for _, kv := range ops.Add {
		if isAuthority(kv.Name) {
			authority = kv.Value
			continue
		}
		h.Add(kv.Name, kv.Value)
	}
	return authority
}

func isAuthority(name string) bool {
	return strings.EqualFold(name, "host") || name == ":authority"
}

// applyResponseHeaders applies the destination's and then the rule's
// operations to the response.
func (x *exchange) applyResponseHeaders(dest *policy.RouteDestination) {
	if dest != nil && dest.Headers != nil {
		applyOps(x.w.Header(), dest.Headers.Response)
	}
	if a := x.decision.Action; a != nil && a.Rule.Headers != nil {
		applyOps(x.w.Header(), a.Rule.Headers.Response)
	}
}

// hopByHop are the fields that end at each hop (RFC 9110, 7.6.1), beside
// those that Connection names.
var hopByHop = [...]string{
	"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate",
	"Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
	"Http2-Settings", // of an upgrade to h2c
}

// removeHopByHop removes what is not for the next hop from h.
func removeHopByHop(h http.Header) {
	for _, v := range h["Connection"] {
		for name := range strings.SplitSeq(v, ",") {
			if name = textproto.TrimString(name); name != "" {
				h.Del(name)
			}
		}
	}
	for _, name := range hopByHop {
		delete(h, name)
	}
}

// hasToken says whether a list-valued field of h has the token.
func hasToken(h http.Header, field, token string) bool {
	for _, v := range h[field] {
		for part := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(textproto.TrimString(part), token) {
				return true
			}
		}
	}
	return false
}

// upgradeType is the protocol that h asks to upgrade to, "" for none. An
// upgrade to another HTTP or to TLS counts as none, which a server may always
// do (RFC 9110, 7.8): within it requests would pass that nobody decides.
func upgradeType(h http.Header) string {
	if !hasToken(h, "Connection", "upgrade") || len(h["Upgrade"]) != 1 {
		return ""
	}
	protocol := textproto.TrimString(h["Upgrade"][0])
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
