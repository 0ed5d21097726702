// SPDX-License-Identifier: Apache-2.0

// Package allowlist reads the short form of a policy, a list of destinations, and
// writes the ServiceEntries that it stands for.
package allowlist

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/scheme"
)

// maxPorts is the most ports that one range may have. A ServiceEntry names each of them.
const maxPorts = 128

// Item is what one line of a list allows.
type Item struct {
	// Host is a name or a wildcard, in its normalized form; "" for Prefix.
	Host hostname.Pattern
	// Prefix is a network or a single address; invalid for Host.
	Prefix netip.Prefix
	// Ports has at least one, in the order in which they were written.
	Ports []ItemPort
}

// ItemPort is one port of a destination.
type ItemPort struct {
	Number   uint16
	Protocol policy.Protocol
}

// webPorts are those of a host that is given alone: HTTP in its two forms.
func webPorts() []ItemPort {
	return []ItemPort{{443, policy.ProtocolHTTPS}, {80, policy.ProtocolHTTP}}
}

// Parse reads one item: HOST, HOST:PORT, HOST:FIRST-LAST, or the same with SCHEME://
// before it, where HOST is a name, a wildcard, an address or a network. A name alone
// means the ports 443 (HTTPS) and 80 (HTTP). A scheme says what the client sends first
// and, where it has one, the port. An address needs a port, or a scheme that has one.
func Parse(item string) (Item, error) {
	d, err := parse(item)
	if err != nil {
		return d, fmt.Errorf("%q: %w", item, err)
	}
	return d, nil
}

func parse(item string) (d Item, err error) {
	rest := item
	var known scheme.Scheme
	if name, after, ok := strings.Cut(item, "://"); ok {
		if known, ok = scheme.Of(strings.ToLower(name)); !ok {
			return d, fmt.Errorf("the scheme %q is not known; write HOST:PORT, or tcp://HOST:PORT, tls://HOST:PORT, udp://HOST:PORT", name)
		}
		rest = strings.TrimSuffix(after, "/")
	}
	host, ports, err := split(rest)
	if err != nil {
		return d, err
	}
	if err := d.setHost(host); err != nil {
		return d, err
	}
	d.Ports, err = d.readPorts(ports, known)
	return d, err
}

// split parts a host from its ports; "" when there are none. Brackets around
// an IPv6 address, which a prefix length may follow, are removed.
func split(s string) (host, ports string, err error) {
	if after, ok := strings.CutPrefix(s, "["); ok {
		address, rest, ok := strings.Cut(after, "]")
		if !ok {
			return "", "", errors.New("a bracket is not closed")
		}
		bits, ports, hasPorts := strings.Cut(rest, ":")
		if bits != "" && bits[0] != '/' || hasPorts && ports == "" {
			return "", "", errors.New("an IPv6 address is written as [2001:db8::1]:443, a network as [2001:db8::]/32:443")
		}
		return address + bits, ports, nil
	}
	if strings.Contains(s, "@") {
		return "", "", errors.New("a user and a password are no part of a destination; write HOST:PORT")
	}
	if strings.Count(s, ":") > 1 {
		return "", "", errors.New("an IPv6 address stands in brackets, as in [2001:db8::1]:443, a network as in [2001:db8::]/32:443")
	}
	host, ports, ok := strings.Cut(s, ":")
	if ok && ports == "" {
		return "", "", errors.New("a port is missing after the colon")
	}
	return host, ports, nil
}

// setHost reads a name, a wildcard, an address or a network.
func (d *Item) setHost(s string) (err error) {
	if a, err := netip.ParseAddr(s); err == nil {
		if a.Zone() != "" {
			return errors.New("an address with a zone is not one of another node")
		}
		a = a.Unmap()
		d.Prefix = netip.PrefixFrom(a, a.BitLen())
		return nil
	}
	address, _, network := strings.Cut(s, "/")
	if _, err := netip.ParseAddr(address); err == nil && network {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return errors.New("it is no network; write ADDRESS/BITS, as in 10.0.0.0/8")
		}
		if p != p.Masked() {
			return fmt.Errorf("the network has bits behind its length; write %s", p.Masked())
		}
		d.Prefix = p
		return nil
	}
	if network {
		return errors.New("a whole host is allowed, not a path on it; a VirtualService can deny paths")
	}
	if s != "" && strings.Trim(s, "0123456789") == "" {
		return errors.New("it is a port without a host; write HOST:PORT, and the host again for each port")
	}
	if d.Host, err = hostname.ParsePattern(s); err != nil {
		return fmt.Errorf("it is no host name: %w", err)
	}
	if d.Host == "*" {
		return errors.New("it would open every name; write the domains that are needed, as in *.example.com")
	}
	return HasIstioForm(string(d.Host))
}

// HasIstioForm says why a ServiceEntry cannot have a name
// (istio.io/istio pkg/config/labels: labels of names in the internet).
func HasIstioForm(host string) error {
	labels := strings.Split(host, ".")
	for _, l := range labels {
		if strings.Contains(l, "_") {
			return fmt.Errorf("a ServiceEntry has no names with an underscore, as in %q; write a wildcard above it, as in *.example.com", l)
		}
		if l != strings.Trim(l, "-") {
			return fmt.Errorf("it is no host name: %q begins or ends with a hyphen", l)
		}
	}
	if strings.Trim(labels[len(labels)-1], "0123456789") == "" { // a mistyped address
		return errors.New("it is no host name, for its last part is a number, and no address, which has four of them")
	}
	return nil
}

// readPorts reads ports as PORT or FIRST-LAST.
func (d *Item) readPorts(s string, known scheme.Scheme) ([]ItemPort, error) {
	if s == "" {
		switch {
		case known.Port != 0:
			return []ItemPort{d.port(known.Port, known.Protocol)}, nil
		case known.Protocol != policy.ProtocolUnset:
			return nil, errors.New("the scheme has no port of its own; write one after the host")
		case d.Prefix.IsValid():
			return nil, fmt.Errorf("an address needs a port; write it as in %s", d.example())
		}
		return webPorts(), nil
	}
	low, high, isRange := strings.Cut(s, "-")
	first, err := port(low)
	if err != nil {
		return nil, err
	}
	last := first
	if isRange {
		if last, err = port(high); err != nil {
			return nil, err
		}
	}
	switch {
	case last < first:
		return nil, fmt.Errorf("the range %s of ports goes downwards", s)
	case last-first >= maxPorts:
		return nil, fmt.Errorf("the range %s has more than %d ports; a ServiceEntry names each port, so write smaller ranges for what is used", s, maxPorts)
	}
	var out []ItemPort
	for n := int(first); n <= int(last); n++ {
		out = append(out, d.port(uint16(n), known.Protocol))
	}
	return out, nil
}

func (d *Item) example() string {
	if d.Prefix.Addr().Is6() {
		return "[" + d.Prefix.Addr().String() + "]" + bits(d.Prefix) + ":443"
	}
	return d.Prefix.Addr().String() + bits(d.Prefix) + ":443"
}

// bits is a network's length behind its address; "" for an address.
func bits(p netip.Prefix) string {
	if p.IsSingleIP() {
		return ""
	}
	return "/" + strconv.Itoa(p.Bits())
}

// port reads a number.
func port(s string) (uint16, error) {
	if s == "*" {
		return 0, errors.New("a ServiceEntry names its ports; write those that are used, as PORT or FIRST-LAST")
	}
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || s[0] < '0' || s[0] > '9' {
		return 0, fmt.Errorf("%q is no port, which is a number from 1 to 65535", s)
	}
	return uint16(n), nil
}

// port is a port for which a protocol was given, or which tells it.
func (d *Item) port(n uint16, p policy.Protocol) ItemPort {
	switch {
	case p == policy.ProtocolUDP:
	case d.Prefix.IsValid(): // what is sent there names another host, if any
		p = policy.ProtocolTCP
	case p == policy.ProtocolUnset:
		p = scheme.ProtocolOfPort(n)
	}
	return ItemPort{n, p}
}

// Items is a list of destinations with the lines that they stand in.
type Items struct {
	prefix  string
	objects []object
}

// object is a ServiceEntry: the ports of one destination, those of UDP apart,
// since a number stands once in a ServiceEntry.
type object struct {
	Item
	name  string
	lines []int // of each port, from 1
}

// Lines reads a list: one item a line, what follows a '#' is a comment. All errors are
// returned together, each with its line. prefix begins the names of the objects: each
// list of a policy has one of its own.
func Lines(prefix, data string) (Items, error) {
	l := Items{prefix: prefix}
	var errs []error
	data = strings.TrimPrefix(data, "\ufeff") // some editors begin files so
	for n, line := range strings.Split(data, "\n") {
		text, _, _ := strings.Cut(line, "#")
		item := strings.TrimSpace(text)
		if item == "" {
			continue
		}
		if strings.ContainsAny(item, " \t,") {
			errs = append(errs, &LineError{n + 1, fmt.Errorf("%q: one destination has no blank and no comma in it; several stand in a line each, or in an --allow each", item)})
			continue
		}
		d, err := Parse(item)
		if err == nil {
			err = l.add(d, n+1)
		}
		if err != nil {
			errs = append(errs, &LineError{n + 1, err})
		}
	}
	return l, errors.Join(errs...)
}

// LineError is an error of a line of a list.
type LineError struct {
	Line int // from 1
	Err  error
}

func (e *LineError) Error() string { return fmt.Sprintf("line %d: %v", e.Line, e.Err) }
func (e *LineError) Unwrap() error { return e.Err }

// Empty says whether the list allows nothing.
func (l Items) Empty() bool { return len(l.objects) == 0 }

// add puts the ports of a destination to those that it has.
func (l *Items) add(d Item, line int) error {
	for _, p := range d.Ports {
		o := l.object(d, p.Protocol == policy.ProtocolUDP)
		i := slices.IndexFunc(o.Ports, func(q ItemPort) bool { return q.Number == p.Number })
		switch {
		case i < 0:
			o.Ports, o.lines = append(o.Ports, p), append(o.lines, line)
		case o.Ports[i].Protocol != p.Protocol:
			return fmt.Errorf("line %d says that %s is spoken on port %d, and this one that it is %s", o.lines[i], o.Ports[i].Protocol, p.Number, p.Protocol)
		}
	}
	return nil
}

// object is the one of a destination, which is made if there is none.
func (l *Items) object(d Item, udp bool) *object {
	for i := range l.objects {
		o := &l.objects[i]
		if o.Host == d.Host && o.Prefix == d.Prefix && (o.Ports[0].Protocol == policy.ProtocolUDP) == udp {
			return o
		}
	}
	l.objects = append(l.objects, object{Item: Item{Host: d.Host, Prefix: d.Prefix}, name: l.name(d, udp)})
	return &l.objects[len(l.objects)-1]
}
