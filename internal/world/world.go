// SPDX-License-Identifier: Apache-2.0

// Package world builds a little internet in network namespaces of its own: a
// node whose only way out is a wire, and at the other end of the wire DNS
// servers, web sites, a database and a stranger. `egressd demo` and the tests
// run real programs in it. Nothing of it touches the machine's own network,
// and nothing stays: the namespaces have no names, and cgroups and files that
// a killed process left are removed by the next one.
//
// It needs root, and cgroup v2 for anything that uses a Cgroup.
package world

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The addresses of the node and of the resolvers. The gateways are the wire's
// other end.
const (
	NodeV4    = "198.51.100.10"
	NodeV6    = "2001:db8:5::10"
	gatewayV4 = "198.51.100.1"
	gatewayV6 = "2001:db8:5::1"

	ResolverV4      = "9.9.9.9"
	ResolverV6      = "2620:fe::9"
	OtherResolverV4 = "8.8.8.8"
	OtherResolverV6 = "2001:4860:4860::8888"
)

// The names that exist from the start, and the addresses behind them.
const (
	GoogleAPIs   = "www.googleapis.com"
	googleAPIsV4 = "142.250.74.10"
	googleAPIsV6 = "2a00:1450:4001:80b::200a"

	API   = "api.example.com"
	apiV4 = "93.184.215.14"
	apiV6 = "2606:2800:21f:cb07:6820:80da:af6b:8b2c"

	API2   = "api2.example.com"
	api2V4 = "104.18.26.120"
	api2V6 = "2606:4700::6812:1a78"

	// ExternalDB has the address that the static example gives its database.
	ExternalDB = "external-db.xxx.yyy"
	DBV4       = "190.64.31.232"
	DBV6       = "2800:a8:c001::232"

	Stranger   = "stranger.example"
	StrangerV4 = "203.0.113.66"
	StrangerV6 = "2001:db8:bad::66"
)

const (
	defaultTTL = time.Minute
	bpffsName  = "bpf"
)

// Options changes what New builds. The zero value is right for most.
type Options struct {
	// NoTap leaves out the packet counter, which costs throughput.
	NoTap bool
}

// World is a little internet. Its methods may be used concurrently, except
// AddOrigin, AddTCP, AddUDP and Close.
type World struct {
	// Node is the namespace for egressd and the workloads.
	Node *Netns
	// Net is everything beyond the node's uplink.
	Net *Netns
	// DNS answers on the four resolver addresses.
	DNS *DNS

	GoogleAPIs *Origin
	API        *Origin
	API2       *Origin
	// Stranger is a web site with a certificate of an authority that no
	// client knows, for whatever name it is asked. Its Hits and Conns, and
	// Packets to its addresses, tell what escaped.
	Stranger *Origin
	// DB greets first and then echoes, on port 3306 of DBV4 and DBV6.
	DB, DB6 *Server
	// Echo and EchoUDP are on port 7 of API's IPv4 address; Echo6 and
	// EchoUDP6 on its IPv6 address.
	Echo, Echo6, EchoUDP, EchoUDP6 *Server
	// StrangerUDP is a UDP echo on port 443 of StrangerV4.
	StrangerUDP *Server

	dir     string
	lock    *os.File
	ca      *authority
	tap     *tap
	mu      sync.Mutex
	closers []func()
	closed  bool
}

// New builds a world, after removing what killed processes left.
func New(o Options) (w *World, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("the little internet needs root: it makes network namespaces")
	}
	if err := Sweep(); err != nil {
		return nil, fmt.Errorf("removing what an earlier run left: %w", err)
	}
	w = &World{}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.Close())
		}
	}()
	if err := w.makeDir(); err != nil {
		return w, err
	}
	if w.Node, err = newNetns("node"); err != nil {
		return w, err
	}
	if w.Net, err = newNetns("net"); err != nil {
		return w, err
	}
	if err := wire(w.Node, w.Net); err != nil {
		return w, err
	}
	if !o.NoTap {
		if w.tap, err = newTap(w.Net); err != nil {
			return w, err
		}
		w.onClose(w.tap.close)
	}
	if err := w.populate(); err != nil {
		return w, err
	}
	return w, nil
}

// makeDir makes the state directory with the CA and the clients' files.
func (w *World) makeDir() (err error) {
	w.dir, err = os.MkdirTemp("", prefix+strconv.Itoa(os.Getpid())+"-world-*")
	if err != nil {
		return err
	}
	if w.lock, err = os.Open(w.dir); err != nil {
		return err
	}
	if err := unix.Flock(int(w.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("locking %s: %w", w.dir, err)
	}
	// Workloads may run as another user and still read the CA.
	if err := os.Chmod(w.dir, 0o755); err != nil {
		return err
	}
	if w.ca, err = newAuthority("little internet CA"); err != nil {
		return err
	}
	return errors.Join(os.WriteFile(w.CAFile(), w.ca.pem(), 0o644), w.writeClientFiles())
}

// populate starts the servers and sets the names.
func (w *World) populate() error {
	w.DNS = newDNS()
	w.onClose(w.DNS.close)
	for _, a := range []string{ResolverV4, ResolverV6, OtherResolverV4, OtherResolverV6} {
		addr := netip.MustParseAddr(a)
		if err := w.Net.Do(func() error { return addHost(addr) }); err != nil {
			return err
		}
		if err := w.DNS.listen(w.Net, netip.AddrPortFrom(addr, 53)); err != nil {
			return fmt.Errorf("DNS server: %w", err)
		}
	}
	errs := []error{
		w.addSite(&w.GoogleAPIs, GoogleAPIs, googleAPIsV4, googleAPIsV6),
		w.addSite(&w.API, API, apiV4, apiV6),
		w.addSite(&w.API2, API2, api2V4, api2V6),
		w.addStranger(),
		w.addServer(&w.DB, DBV4, 3306, false, Greeting),
		w.addServer(&w.DB6, DBV6, 3306, false, Greeting),
		w.addServer(&w.Echo, apiV4, 7, false, ""),
		w.addServer(&w.Echo6, apiV6, 7, false, ""),
		w.addServer(&w.EchoUDP, apiV4, 7, true, ""),
		w.addServer(&w.EchoUDP6, apiV6, 7, true, ""),
		w.addServer(&w.StrangerUDP, StrangerV4, 443, true, ""),
	}
	w.publish(ExternalDB, netip.MustParseAddr(DBV4), netip.MustParseAddr(DBV6))
	return errors.Join(errs...)
}

func (w *World) addSite(to **Origin, name, v4, v6 string) (err error) {
	*to, err = w.AddOrigin(OriginConfig{Names: []string{name}, V4: netip.MustParseAddr(v4), V6: netip.MustParseAddr(v6)})
	return err
}

// addStranger adds a site whose certificate comes from an authority of its own.
func (w *World) addStranger() error {
	trusted := w.ca
	defer func() { w.ca = trusted }()
	var err error
	if w.ca, err = newAuthority("stranger CA"); err != nil {
		return err
	}
	return w.addSite(&w.Stranger, Stranger, StrangerV4, StrangerV6)
}

func (w *World) addServer(to **Server, addr string, port uint16, udp bool, greeting string) (err error) {
	at := netip.AddrPortFrom(netip.MustParseAddr(addr), port)
	if udp {
		*to, err = w.AddUDP(at)
	} else {
		*to, err = w.AddTCP(at, greeting)
	}
	return err
}

// publish sets the address records of a name; a zero address leaves that
// family with an empty answer.
func (w *World) publish(name string, v4, v6 netip.Addr) {
	w.DNS.SetA(name, defaultTTL)
	w.DNS.SetAAAA(name, defaultTTL)
	if v4.IsValid() {
		w.DNS.SetA(name, defaultTTL, v4)
	}
	if v6.IsValid() {
		w.DNS.SetAAAA(name, defaultTTL, v6)
	}
}

// Dir is a directory that goes away with the world.
func (w *World) Dir() string { return w.dir }

// CAFile is the PEM file of the authority that the web sites' certificates
// come from.
func (w *World) CAFile() string { return w.file("ca.pem") }

func (w *World) file(name string) string { return filepath.Join(w.dir, name) }

// Packets counts the packets that left the node for an address, of any
// protocol and port. It is 0 with Options.NoTap.
func (w *World) Packets(dst netip.Addr) int {
	n := 0
	for p, count := range w.Wire() {
		if p.Dst == dst {
			n += count
		}
	}
	return n
}

// Wire counts all packets that left the node, by destination. It is nil with
// Options.NoTap.
func (w *World) Wire() map[Packet]int {
	if w.tap == nil {
		return nil
	}
	return w.tap.packets()
}

// MountBPFFS mounts a BPF file system of the world's own and returns its
// path. Pins in it last until Close, whoever made them.
func (w *World) MountBPFFS() (string, error) {
	path := w.file(bpffsName)
	if err := os.Mkdir(path, 0o700); err != nil {
		return "", err
	}
	if err := unix.Mount("bpf", path, "bpf", 0, "mode=0700"); err != nil {
		return "", fmt.Errorf("mounting a BPF file system: %w", err)
	}
	return path, nil
}

// onClose registers f to run at Close, last in first out.
func (w *World) onClose(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closers = append(w.closers, f)
}

// Close ends the servers and removes everything. Processes that still run in
// a namespace keep it alive; close their Cgroup first. Closing twice is fine.
func (w *World) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil
	}
	w.closed = true
	for i := len(w.closers) - 1; i >= 0; i-- {
		w.closers[i]()
	}
	var errs []error
	for _, ns := range []*Netns{w.Node, w.Net} {
		if ns != nil {
			errs = append(errs, ns.Close())
		}
	}
	if w.dir != "" {
		errs = append(errs, removeDir(w.dir))
	}
	if w.lock != nil {
		errs = append(errs, w.lock.Close())
	}
	return errors.Join(errs...)
}
