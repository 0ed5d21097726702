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
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/bpf"
	"github.com/egressd/egressd/internal/netns"
	"github.com/egressd/egressd/loader/tables"
)

// ErrABIMismatch says that what belongs to open sockets is pinned in another
// layout than this version's. The way out is to run "egressd unload" and to
// start again.
var ErrABIMismatch = errors.New("the pinned state has another layout")

// Options say where a Datapath lives.
type Options struct {
	// PinDir is a directory on a bpffs where maps and links are pinned, so
	// that they outlive the process. It is made when missing; state found in
	// it is adopted.
	PinDir string
	// Renew makes the policy's tables anew even if those that are pinned could
	// be used: a start numbers policies and workloads as it finds them, and
	// until the programs are replaced the old ones go by the old numbers.
	Renew bool
	// Sizes bound the tables.
	Sizes Sizes
	// ByName lets cgroups be captured by their names (Follow), if CanFollow.
	ByName bool
}

// Datapath is the loaded kernel side. Its methods are safe for concurrent use.
type Datapath struct {
	opts Options
	objs bpf.EgressdObjects
	// adopted says that the programs were attached already at Open, and
	// adoptedFlows that the flows of interfaces were taken over.
	adopted, adoptedFlows bool
	earlier               EarlierPrograms
	// waiting are the maps that Attach will pin over older ones.
	waiting map[string]bool
	// first says that nothing was attached when it was opened, pinned are the
	// maps that were pinned since.
	first  bool
	pinned []string

	mu     sync.Mutex
	config bpf.EgressdEgdConfig
	links  map[string]link.Link
	tables *tables.Tables
	grown  grown
	// fixed is how many bytes the maps take that don't grow, renewing those of
	// them that a restart makes anew.
	fixed, renewing uint64
	usage           *usage
	bound           bound
	guards          map[int]*guard // by interface index
	// committed says that all programs are attached, and the pins theirs.
	committed bool
	// path is the cgroup that the programs were attached to, cgroup its id then.
	path   string
	cgroup uint64
	// sockets are what egd_listeners is to hold.
	sockets []ListenerSocket
	// places are the pins as they were when they were known to be right.
	places map[string]place
	// ids are the kernel's numbers of the programs.
	ids map[*ebpf.Program]ebpf.ProgramID
	// steers says that Steer was called, unloaded that Unload was: nothing is to
	// be held any more.
	steers, unloaded bool
	foreign          foreign
	// flowCount is how many flows the last sweep left.
	flowCount int
	// gates are those of the listeners: IPv4 and IPv6.
	gates atomic.Pointer[[2]netip.Addr]
	// devices are the listeners' addresses on devices.
	devices atomic.Pointer[map[netip.Addr]bool]

	before before

	events   *ringbuf.Reader
	draining atomic.Bool
}

// Open loads the programs. Where PinDir holds maps already they are taken
// over with their contents, so that flows keep their verdicts. Tables of another
// layout are made anew, to be filled by the caller before Attach puts them and
// the programs in the place of the old ones. Nothing is attached yet. It returns
// ErrABIMismatch when what belongs to open sockets has another layout.
func Open(o Options) (*Datapath, error) { return open(o, func(*ebpf.CollectionSpec) {}) }

// open lets tests be other versions.
func open(o Options, change func(*ebpf.CollectionSpec)) (*Datapath, error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, explainLoad(fmt.Errorf("raise the locked memory limit: %w", err))
	}
	if err := makePins(o.PinDir); err != nil {
		return nil, err
	}
	spec, err := bpf.LoadEgressd()
	if err != nil {
		return nil, fmt.Errorf("read the embedded programs: %w", err)
	}
	o.Sizes = o.Sizes.withDefaults()
	o.Sizes.apply(spec)
	change(spec)
	if o.ByName {
		if err := tellOffsets(spec); err != nil {
			return nil, fmt.Errorf("capture by name: %w", err)
		}
	}
	t, err := lookAround(o, spec)
	if err != nil {
		return nil, err
	}
	defer t.close()

	d := &Datapath{opts: o, links: map[string]link.Link{}, guards: map[int]*guard{}, waiting: map[string]bool{}, places: map[string]place{}, ids: map[*ebpf.Program]ebpf.ProgramID{}}
	for name, waits := range t.waiting {
		if waits {
			d.waiting[name] = true
		}
	}
	before, err := ReadPinned(o.PinDir)
	if err != nil {
		return nil, err
	}
	d.first = !before.AtWork()
	// Maps, and links but the last, are what a start that failed leaves.
	hooks := d.hooks()
	last := linkPrefix + hooks[len(hooks)-1].name
	_, err = os.Stat(filepath.Join(o.PinDir, last))
	d.adopted = err == nil
	if d.earlier, err = readEarlier(o.PinDir, last); err != nil {
		return nil, err
	}
	d.adoptedFlows = d.adopted && t.has(flowTables)
	if err := checkMemory(startNeeds(spec, t.old)); err != nil {
		return nil, err
	}
	for name, m := range spec.Maps {
		d.fixed += emptySize(m)
		if slices.Contains(renewed[policyTables], name) {
			d.renewing += emptySize(m)
		}
	}
	err = spec.LoadAndAssign(&d.objs, &ebpf.CollectionOptions{MapReplacements: t.old})
	if err != nil {
		var ve *ebpf.VerifierError
		if errors.As(err, &ve) {
			return nil, explainLoad(fmt.Errorf("the kernel's verifier refused a program: %+v", ve))
		}
		return nil, explainLoad(fmt.Errorf("load the kernel programs: %w", err))
	}
	if err := d.start(t, spec); err != nil {
		return nil, errors.Join(err, d.grown.close(), d.unpinMaps(), d.objs.Close())
	}
	d.before.m, t.origins = t.origins, nil
	return d, nil
}

func (d *Datapath) start(t *takeover, spec *ebpf.CollectionSpec) error {
	if err := d.beginConfig(t); err != nil {
		return err
	}
	if err := d.pinMaps(t); err != nil {
		return err
	}
	cookie, err := netns.Cookie()
	if err != nil {
		return err
	}
	d.config.NetnsCookie = cookie
	if d.grown, err = openGrown(d, spec); err != nil {
		return err
	}
	if d.tables, err = d.openTables(); err != nil {
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

// Adopted says whether Open found programs at work; what they saw: Earlier.
func (d *Datapath) Adopted() bool { return d.adopted }

// AdoptedFlows says whether they saw those of interfaces as well, and what they
// knew of them was taken over.
func (d *Datapath) AdoptedFlows() bool { return d.adoptedFlows }

// pinnable lists every map by its name. Socket storage is pinned as well: a
// restarted daemon's programs must see the verdicts of sockets that are open.
func pinnable(m *bpf.EgressdMaps) map[string]*ebpf.Map {
	all := map[string]*ebpf.Map{}
	for field, v := range reflect.ValueOf(m).Elem().Fields() {
		if name := field.Tag.Get("ebpf"); name != "" {
			all[name], _ = v.Interface().(*ebpf.Map)
		}
	}
	return all
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
	// Sockets are the listeners themselves: a flow is redirected only while the
	// one that it would reach is open.
	Sockets []ListenerSocket
}

// ListenerSocket is a listener of egressd.
type ListenerSocket struct {
	Kind SocketKind
	Slot int        // of a DNSUDP socket
	Addr netip.Addr // loopback or a gate
	Conn syscall.Conn
}

// SocketKind says what a socket serves.
type SocketKind uint32

// The kinds of enum egd_listener.
const (
	ProxySocket  = SocketKind(bpf.EgressdEgdListenerEGD_L_PROXY)
	DNSTCPSocket = SocketKind(bpf.EgressdEgdListenerEGD_L_DNS_TCP)
	DNSUDPSocket = SocketKind(bpf.EgressdEgdListenerEGD_L_DNS_UDP)
)

func (s ListenerSocket) String() string {
	switch s.Kind {
	case ProxySocket:
		return "proxy at " + s.Addr.String()
	case DNSTCPSocket:
		return "DNS over TCP at " + s.Addr.String()
	}
	return fmt.Sprintf("DNS over UDP, slot %d, at %s", s.Slot, s.Addr)
}

// key is the socket's place in egd_listeners.
func (s ListenerSocket) key() uint32 {
	place := uint32(bpf.EgressdEgdPlaceEGD_LOOPBACK4)
	if !s.Addr.IsLoopback() {
		place = uint32(bpf.EgressdEgdPlaceEGD_GATE4)
	}
	if s.Addr.Is6() {
		place++
	}
	return place*uint32(bpf.EgressdEgdListenerEGD_KINDS) + uint32(s.Kind) + uint32(s.Slot)
}

// setSockets makes egd_listeners hold these sockets and no others.
func (d *Datapath) setSockets(sockets []ListenerSocket) error {
	m := d.objs.EgdListeners
	d.sockets = slices.Clone(sockets)
	is := map[uint32]bool{}
	for _, s := range sockets {
		raw, err := s.Conn.SyscallConn()
		if err != nil {
			return fmt.Errorf("the listener on %s: %w", s.Addr, err)
		}
		is[s.key()] = true
		cerr := raw.Control(func(fd uintptr) { err = m.Put(s.key(), uint64(fd)) })
		if err = errors.Join(cerr, err); err != nil {
			return fmt.Errorf("write egd_listeners: %w", err)
		}
	}
	for key := range m.MaxEntries() {
		if is[key] {
			continue
		}
		// EINVAL: there is none.
		if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("write egd_listeners: %w", err)
		}
	}
	return nil
}

// Slots is the number of UDP ports of the DNS proxy.
const Slots = int(bpf.EgressdEgdSizeEGD_DNS_SLOTS)

// SetListeners publishes the listeners' ports and sockets. The listeners must be
// bound.
func (d *Datapath) SetListeners(l Listeners) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.setSockets(l.Sockets); err != nil {
		return err
	}
	d.gates.Store(&[2]netip.Addr{l.Gate4, l.Gate6})
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
	d.forgetBefore()
	err = errors.Join(err, d.CloseLinks())
	d.mu.Lock()
	defer d.mu.Unlock()
	return errors.Join(err, d.grown.close(), d.usage.close(), d.objs.Close())
}

// CloseLinks releases the handles of the links alone, which would keep the
// programs attached after somebody has removed the pins.
func (d *Datapath) CloseLinks() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var err error
	for name, l := range d.links {
		err = errors.Join(err, l.Close())
		delete(d.links, name)
	}
	for index, g := range d.guards {
		err = errors.Join(err, g.close())
		delete(d.guards, index)
	}
	return err
}
