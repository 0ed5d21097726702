// SPDX-License-Identifier: Apache-2.0

package semantics

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/egressd/egressd/policy"
)

// question is a line of an expectation up to its "=>".
type question struct {
	kind    string // tcp, udp, http or query
	gateway string // "namespace/name", whose port it is about; "" for workloads
	port    uint16
	// host is the name or address that the workload dials or asks for.
	host string
	// method and target are a request's, host its Host header.
	method   string
	target   *url.URL
	hostname string
	header   map[string][]string
	// sni is what the ClientHello carries; nil: the bytes are no ClientHello.
	sni      *string
	at, from netip.Addr
	draw     uint64
	who      policy.Identity
	anyone   bool // nobody in particular asks
}

// learned is a line "dns NAME = ADDRESS...".
type learned struct {
	name  string
	addrs []netip.Addr
}

// words are the words of a line, with a cursor.
type words struct{ list []string }

func (w *words) next() string {
	if len(w.list) == 0 {
		return ""
	}
	s := w.list[0]
	w.list = w.list[1:]
	return s
}

// parseDNS reads the words behind "dns".
func parseDNS(w words) (learned, error) {
	l := learned{name: w.next()}
	if l.name == "" || w.next() != "=" || len(w.list) == 0 {
		return l, errors.New("want: dns NAME = ADDRESS...")
	}
	for _, s := range w.list {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return l, err
		}
		l.addrs = append(l.addrs, a)
	}
	return l, nil
}

// parseQuestion reads a question.
func parseQuestion(text string) (*question, error) {
	w := words{strings.Fields(text)}
	q := &question{anyone: true, header: map[string][]string{}}
	q.kind = w.next()
	if q.kind == "gateway" {
		if err := q.parseGateway(w.next()); err != nil {
			return nil, err
		}
		q.kind = w.next()
	}
	if err := q.parseTarget(&w); err != nil {
		return nil, err
	}
	for len(w.list) > 0 {
		if err := q.parseOption(&w); err != nil {
			return nil, err
		}
	}
	return q, nil
}

func (q *question) parseGateway(s string) error {
	name, port, ok := cutPort(s)
	if !ok || (strings.Count(name, "/") != 1 && strings.Count(name, "/") != 2) {
		return fmt.Errorf("%q: want gateway NAMESPACE/NAME:PORT, or NAMESPACE/NAME/LISTENER:PORT", s)
	}
	q.gateway, q.port = name, port
	return nil
}

// parseTarget reads what the question is about.
func (q *question) parseTarget(w *words) error {
	switch q.kind {
	case "tcp", "udp":
		if q.gateway != "" {
			if q.kind == "udp" {
				return errors.New("gateways have no UDP")
			}
			return nil
		}
		s := w.next()
		var ok bool
		if q.host, q.port, ok = cutPort(s); !ok {
			return fmt.Errorf("%q: want HOST:PORT", s)
		}
	case "http":
		q.method = w.next()
		return q.parseURL(w.next())
	case "query":
		if q.host = w.next(); q.host == "" || q.gateway != "" {
			return errors.New("want: query NAME")
		}
	default:
		return fmt.Errorf("%q is none of tcp, udp, http, query", q.kind)
	}
	return nil
}

// parseURL reads HOST[:PORT]/PATH.
func (q *question) parseURL(s string) error {
	u, err := url.Parse("http://" + s)
	if err != nil || u.Hostname() == "" || u.Path == "" || q.method != strings.ToUpper(q.method) {
		return fmt.Errorf("%q: want http METHOD HOST[:PORT]/PATH", s)
	}
	q.target, q.host, q.hostname = u, u.Hostname(), u.Hostname()
	if q.gateway != "" {
		return nil
	}
	port, err := strconv.ParseUint(cmp.Or(u.Port(), "80"), 10, 16)
	q.port = uint16(port)
	return err
}

// parseOption reads one option: from WORKLOAD [as ACCOUNT], or key=value.
func (q *question) parseOption(w *words) error {
	word := w.next()
	key, value, pair := strings.Cut(word, "=")
	var err error
	switch {
	case word == "from":
		if err = q.parseWho(w.next()); err == nil && len(w.list) > 1 && w.list[0] == "as" {
			w.next()
			q.who.ServiceAccount = w.next()
		}
	case !pair:
		err = errors.New("an unknown word")
	case key == "sni" && q.kind != "query" && q.kind != "udp":
		q.sni = &value
	case key == "at" && q.gateway == "":
		q.at, err = netip.ParseAddr(value)
	case key == "src":
		q.from, err = netip.ParseAddr(value)
	case key == "draw":
		q.draw, err = strconv.ParseUint(value, 10, 64)
	case key == "host" && q.kind == "http":
		q.hostname = value
	case strings.HasPrefix(key, "header:") && q.kind == "http":
		name := strings.TrimPrefix(key, "header:")
		q.header[name] = append(q.header[name], value)
	default:
		err = errors.New("an unknown word")
	}
	if err != nil {
		return fmt.Errorf("%q: %w", word, err)
	}
	return nil
}

// workloadWord is NAMESPACE[/NAME][LABEL=VALUE,...].
var workloadWord = regexp.MustCompile(`^([a-z0-9-]+)(?:/([a-z0-9.-]+))?(?:\[([^\]]+)\])?$`)

func (q *question) parseWho(s string) error {
	m := workloadWord.FindStringSubmatch(s)
	if m == nil {
		return errors.New("want: from NAMESPACE[/NAME][LABEL=VALUE,...] [as ACCOUNT]")
	}
	q.anyone, q.who = false, policy.Identity{Namespace: m[1], Name: cmp.Or(m[2], "any")}
	if m[3] == "" {
		return nil
	}
	q.who.Labels = map[string]string{}
	for l := range strings.SplitSeq(m[3], ",") {
		k, v, ok := strings.Cut(l, "=")
		if !ok {
			return fmt.Errorf("label %q: want LABEL=VALUE", l)
		}
		q.who.Labels[k] = v
	}
	return nil
}

// key tells the workloads of a case apart.
func key(id policy.Identity) string {
	var labels []string
	for k, v := range id.Labels {
		labels = append(labels, k+"="+v)
	}
	slices.Sort(labels)
	return fmt.Sprint(id.Namespace, "/", id.Name, labels, id.ServiceAccount)
}

// cutPort splits HOST:PORT; an IPv6 address is in brackets, which go.
func cutPort(s string) (string, uint16, bool) {
	i := strings.LastIndexByte(s, ':')
	if i <= 0 {
		return "", 0, false
	}
	port, err := strconv.ParseUint(s[i+1:], 10, 16)
	return strings.Trim(s[:i], "[]"), uint16(port), err == nil
}
