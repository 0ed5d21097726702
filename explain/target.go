// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/scheme"
)

// Target is what to explain: a URL, HOST:PORT or IP:PORT.
type Target struct {
	text      string
	transport policy.Transport
	url       *url.URL // nil unless a URL was given
	host      string   // normalized name, "" for an address
	addr      netip.Addr
	port      uint16
	// speaks is what the client sends first, as far as the scheme of a URL
	// says it; unset for HOST:PORT.
	speaks policy.Protocol
}

// ParseTarget reads what the user typed. HOST:PORT/udp asks about UDP.
func ParseTarget(s string) (Target, error) {
	t := Target{text: s, transport: policy.TCP}
	var hostport string
	var err error
	if strings.Contains(s, "://") {
		hostport, err = t.readURL(strings.TrimPrefix(s, "jdbc:"))
	} else {
		hostport, err = t.readHostPort(s)
	}
	if err != nil {
		return t, err
	}
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		return t, fmt.Errorf("%s: give a URL, HOST:PORT or IP:PORT%s", s, example(hostport))
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return t, fmt.Errorf("%s: the port is a number from 1 to 65535", s)
	}
	t.port = uint16(n)
	if t.addr, err = netip.ParseAddr(host); err == nil {
		t.addr = t.addr.Unmap().WithZone("")
		return t, nil
	}
	switch {
	case strings.Contains(host, ","):
		return t, fmt.Errorf("%s: ask for one host at a time", s)
	case strings.Contains(host, "*"):
		return t, fmt.Errorf("%s: ask for one name, not for a wildcard", s)
	}
	if t.host, err = hostname.Normalize(host); err != nil {
		return t, fmt.Errorf("%s: not a host name: %w", s, err)
	}
	return t, nil
}

// example is how to write what is no HOST:PORT, if that can be guessed.
func example(s string) string {
	if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return ", as in " + netip.AddrPortFrom(a.WithZone(""), 443).String()
	}
	if strings.Count(s, ":") > 1 && !strings.Contains(s, "[") {
		return "; an IPv6 address stands in brackets, as in [2001:db8::1]:443"
	}
	if name, err := hostname.Normalize(s); err == nil {
		return fmt.Sprintf(", as in %s:443 or https://%s/", name, name)
	}
	return ""
}

// readURL returns the HOST:PORT of a URL.
func (t *Target) readURL(s string) (string, error) {
	if name, _, _ := strings.Cut(s, "://"); strings.HasSuffix(name, "+srv") {
		return "", fmt.Errorf("%s: a %s URL names its servers in DNS (SRV records); ask for one of them as HOST:PORT", t.text, name)
	}
	u, err := url.Parse(s)
	var bad *url.Error
	switch {
	case errors.As(err, &bad):
		return "", fmt.Errorf("%s: not a URL of one host: %w", t.text, bad.Err)
	case err != nil:
		return "", fmt.Errorf("%s: not a URL: %w", t.text, err)
	case u.Hostname() == "":
		return "", fmt.Errorf("%s: the URL has no host; only what goes to a host is decided", t.text)
	}
	known, ok := scheme.Of(u.Scheme)
	port := u.Port()
	if port == "" {
		if known.Port == 0 {
			return "", fmt.Errorf("%s: give a port with the scheme %q, as in %s://%s:9000", t.text, u.Scheme, u.Scheme, u.Host)
		}
		port = strconv.Itoa(int(known.Port))
	}
	t.url, t.speaks = u, known.Protocol
	if ok {
		t.transport = known.Protocol.Transport()
	}
	return net.JoinHostPort(u.Hostname(), port), nil
}

// readHostPort returns the HOST:PORT before the transport, if there is one.
func (t *Target) readHostPort(s string) (string, error) {
	hostport, transport, ok := strings.Cut(s, "/")
	switch _, err := netip.ParsePrefix(s); {
	case err == nil:
		return "", fmt.Errorf("%s: ask for one address and a port, not for a network", s)
	case !ok || transport == "tcp":
		return hostport, nil
	case transport == "udp":
		t.transport = policy.UDP
		return hostport, nil
	case strings.Contains(hostport, "@") && strings.Contains(hostport, ":"):
		host, _, _ := strings.Cut(hostport, ":")
		return "", fmt.Errorf("%s: write it as a URL: ssh://%s/", s, host)
	}
	return "", fmt.Errorf("%s: the transport after the slash is tcp or udp; a path needs a URL, as in https://%s", s, s)
}

// isLocalhost says whether a name is one of loopback's (RFC 6761, section
// 6.3), which no client asks a server for.
func isLocalhost(name string) bool {
	return name == "localhost" || strings.HasSuffix(name, ".localhost")
}

// isLoopback says whether the target never leaves the node.
func (t *Target) isLoopback() bool {
	if t.host != "" {
		return isLocalhost(t.host)
	}
	return t.addr.IsLoopback() || t.addr.IsUnspecified()
}

// ParseHeader reads headers as "NAME: VALUE", like those of curl's -H; names may
// repeat.
func ParseHeader(lines []string) (http.Header, error) {
	out := http.Header{}
	for _, l := range lines {
		name, value, ok := strings.Cut(l, ":")
		name = strings.TrimSpace(name)
		if !ok || name == "" || strings.ContainsAny(name, " \t\r\n") || strings.ContainsAny(value, "\r\n") {
			return nil, fmt.Errorf("%q is no header; write it as 'NAME: VALUE'", l)
		}
		out.Add(name, strings.TrimSpace(value))
	}
	return out, nil
}
