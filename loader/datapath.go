// SPDX-License-Identifier: Apache-2.0

// Package loader owns the kernel side: it loads the programs, holds every map
// and link and the directory where they are pinned, and translates between
// policy types and the kernel's keys. Nothing else touches a map.
package loader

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/cilium/ebpf/rlimit"

	"github.com/egressd/egressd/bpf"
	"github.com/egressd/egressd/internal/netns"
)

// ErrABIMismatch says that the pinned maps were made by a version of egressd
// whose map layout differs. The way out is to run "egressd unload" and to
// start again.
var ErrABIMismatch = errors.New("the pinned state has another layout")

// Options say where a Datapath lives.
type Options struct {
	// PinDir is a directory on a bpffs where maps and links are pinned, so
	// that they outlive the process. It is made when missing; state found in
	// it is adopted.
	PinDir string
}

// Datapath is the loaded kernel side. Its methods are safe for concurrent use.
type Datapath struct {
	opts Options
	objs bpf.EgressdObjects
	// adopted says that the programs were attached already at Open.
	adopted bool

	mu     sync.Mutex
	config bpf.EgressdEgdConfig
	links  map[string]link.Link
	tables tables
	usage  *usage
	guards map[int]*guard // by interface index
	// flowCount is how many flows the last sweep left.
	flowCount int

	events   *ringbuf.Reader
	draining atomic.Bool
}

// Open loads the programs. Where PinDir holds maps already they are taken
// over with their contents, so that flows keep their verdicts. Nothing is
// attached yet. It returns ErrABIMismatch when the layouts differ.
func Open(o Options) (*Datapath, error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("raise the locked memory limit: %w", err)
	}
	if err := ensureBPFFS(o.PinDir); err != nil {
		return nil, err
	}
	spec, err := bpf.LoadEgressd()
	if err != nil {
		return nil, fmt.Errorf("read the embedded programs: %w", err)
	}
	replace, err := pinnedMaps(o.PinDir, spec)
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, m := range replace {
			m.Close()
		}
	}()

	d := &Datapath{opts: o, links: map[string]link.Link{}, guards: map[int]*guard{}}
	// Maps alone are what a start that failed leaves.
	_, err = os.Stat(filepath.Join(o.PinDir, linkPrefix+"egd_connect4"))
	d.adopted = err == nil
	err = spec.LoadAndAssign(&d.objs, &ebpf.CollectionOptions{MapReplacements: replace})
	if err != nil {
		var ve *ebpf.VerifierError
		if errors.As(err, &ve) {
			return nil, fmt.Errorf("the kernel's verifier refused a program: %+v", ve)
		}
		return nil, fmt.Errorf("load the kernel programs: %w", err)
	}
	if err := d.start(); err != nil {
		d.objs.Close()
		return nil, err
	}
	return d, nil
}

func (d *Datapath) start() error {
	if err := d.pinMaps(); err != nil {
		return err
	}
	if err := d.objs.EgdConfig.Lookup(uint32(0), &d.config); err != nil {
		return fmt.Errorf("read egd_config: %w", err)
	}
	cookie, err := netns.Cookie()
	if err != nil {
		return err
	}
	d.config.NetnsCookie = cookie
	if err := d.tables.adopt(&d.objs.EgressdMaps); err != nil {
		return err
	}
	if d.usage, err = mapUsage(d.objs.EgdUsage); err != nil {
		return err
	}
	d.events, err = ringbuf.NewReader(d.objs.EgdEvents)
	if err != nil {
		return errors.Join(fmt.Errorf("open the event ring: %w", err), d.usage.close())
	}
	return nil
}

// Adopted says whether Open found programs at work, and took over their state.
func (d *Datapath) Adopted() bool { return d.adopted }

// pinnable lists every map by its name. Socket storage is pinned as well: a
// restarted daemon's programs must see the verdicts of sockets that are open.
func pinnable(m *bpf.EgressdMaps) map[string]*ebpf.Map {
	return map[string]*ebpf.Map{
		"egd_addrs":      m.EgdAddrs,
		"egd_cidrs":      m.EgdCidrs,
		"egd_config":     m.EgdConfig,
		"egd_dialled":    m.EgdDialled,
		"egd_endpoints":  m.EgdEndpoints,
		"egd_rewrites":   m.EgdRewrites,
		"egd_counters":   m.EgdCounters,
		"egd_events":     m.EgdEvents,
		"egd_flow_bytes": m.EgdFlowBytes,
		"egd_flow_hello": m.EgdFlowHello,
		"egd_flows":      m.EgdFlows,
		"egd_hellos":     m.EgdHellos,
		"egd_ifaces":     m.EgdIfaces,
		"egd_shares":     m.EgdShares,
		"egd_known":      m.EgdKnown,
		"egd_names":      m.EgdNames,
		"egd_origins":    m.EgdOrigins,
		"egd_peers":      m.EgdPeers,
		"egd_recent":     m.EgdRecent,
		"egd_sockets":    m.EgdSockets,
		"egd_usage":      m.EgdUsage,
		"egd_workloads":  m.EgdWorkloads,
	}
}

// pinnedMaps opens the maps that are pinned in dir. A directory with some of
// them is what an interrupted start leaves: those that are there are adopted.
func pinnedMaps(dir string, spec *ebpf.CollectionSpec) (_ map[string]*ebpf.Map, err error) {
	maps := map[string]*ebpf.Map{}
	defer func() {
		if err != nil {
			for _, m := range maps {
				m.Close()
			}
		}
	}()
	for name, ms := range spec.Maps {
		if strings.HasPrefix(name, ".") {
			continue // the constants of one version of the programs
		}
		m, err := ebpf.LoadPinnedMap(filepath.Join(dir, name), nil)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("open the pinned map %s: %w", name, err)
		}
		maps[name] = m
		if err := ms.Compatible(m); err != nil {
			return nil, fmt.Errorf("%w: map %s in %s (%s); run \"egressd unload\" and start again",
				ErrABIMismatch, name, dir, err)
		}
	}
	return maps, nil
}

func (d *Datapath) pinMaps() error {
	for name, m := range pinnable(&d.objs.EgressdMaps) {
		if m.IsPinned() {
			continue
		}
		path := filepath.Join(d.opts.PinDir, name)
		if _, err := os.Stat(path); err == nil {
			continue
		}
		if err := m.Pin(path); err != nil {
			return fmt.Errorf("pin %s: %w", path, err)
		}
	}
	return nil
}

// Listeners are the ports that redirected flows go to, in host order, on
// 127.0.0.1 and ::1 and on the gate of each family.
type Listeners struct {
	Proxy  uint16
	DNSTCP uint16
	DNSUDP [Slots]uint16
	Admin  uint16 // refused to workloads; 0: none
	// Gate4 and Gate6 are where sockets of other network namespaces find the
	// listeners. The zero Addr: nowhere; they are refused what is redirected.
	Gate4, Gate6 netip.Addr
}

// Slots is the number of UDP ports of the DNS proxy (EGD_DNS_SLOTS).
const Slots = 4

// SetListeners publishes the listeners' ports. The listeners must be bound.
func (d *Datapath) SetListeners(l Listeners) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.config.ProxyPort = htons(l.Proxy)
	d.config.DnsTcpPort = htons(l.DNSTCP)
	for i, p := range l.DNSUDP {
		d.config.DnsPort[i] = htons(p)
	}
	d.config.AdminPort = htons(l.Admin)
	d.config.Gate4, d.config.Gate6 = [16]byte{}, [16]byte{}
	if l.Gate4.IsValid() {
		d.config.Gate4 = l.Gate4.As16()
	}
	if l.Gate6.IsValid() {
		d.config.Gate6 = l.Gate6.As16()
	}
	return d.writeConfig()
}

// SetReady opens or closes the whole datapath: while it is not ready every
// flow of a workload is denied.
func (d *Datapath) SetReady(ready bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.config.Ready = 0
	if ready {
		d.config.Ready = 1
	}
	return d.writeConfig()
}

// RaiseEpoch makes every verdict that was given before older than the policy.
func (d *Datapath) RaiseEpoch() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.config.Epoch++
	return d.writeConfig()
}

func (d *Datapath) writeConfig() error {
	if err := d.objs.EgdConfig.Put(uint32(0), &d.config); err != nil {
		return fmt.Errorf("write egd_config: %w", err)
	}
	return nil
}

// Close releases the handles. Pinned maps and links stay and go on working.
func (d *Datapath) Close() error {
	err := d.events.Close()
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, l := range d.links {
		err = errors.Join(err, l.Close())
		delete(d.links, name)
	}
	for index, g := range d.guards {
		err = errors.Join(err, g.close())
		delete(d.guards, index)
	}
	return errors.Join(err, d.usage.close(), d.objs.Close())
}
