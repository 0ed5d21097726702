// SPDX-License-Identifier: Apache-2.0

package listen

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"

	"github.com/egressd/egressd/internal/link"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/loader/arrival"
)

// Devices are egressd's sockets at addresses of the node's devices, for
// workloads' sockets that are bound to a device and so cannot reach loopback. They
// have the ports of those on loopback, and hear this machine only.
type Devices struct {
	log *slog.Logger
	mu  sync.Mutex
	at  map[netip.Addr]*DeviceListener
	// told are the addresses where it was said that nobody could listen, with
	// the error.
	told map[netip.Addr]string
	full bool // it was said that there are too many devices
	list func() ([]link.Device, error)
}

// DeviceListener are the sockets at an address of a device.
type DeviceListener struct {
	Proxy  *net.TCPListener
	DNSTCP *net.TCPListener
	DNSUDP []net.PacketConn
	Stop   context.CancelFunc // ends serving; nil before
}

// NewDevices listens nowhere yet.
func NewDevices(log *slog.Logger) *Devices {
	return &Devices{log: log, at: map[netip.Addr]*DeviceListener{}, told: map[netip.Addr]string{}, list: link.Devices}
}

// DeviceServices are what serves the sockets at addresses of devices.
type DeviceServices struct {
	// Proxy and DNS serve until their context ends, and close the sockets.
	Proxy func(context.Context, *net.TCPListener) error
	DNS   func(context.Context, []net.PacketConn, []net.Listener) error
	// Tell tells the kernel where egressd listens.
	Tell func([]loader.BoundDevice) error
}

// Serve makes egressd listen on the node's devices as they are now. run starts a
// function that is waited for at the end, and answer one that may go on longer.
func (d *Devices) Serve(ctx context.Context, l *Set, by DeviceServices, run, answer func(func() error)) {
	devices, err := d.list()
	if err != nil {
		d.log.Warn("the network devices could not be listed; egressd goes on listening on those that it knows, and sockets bound to new ones are refused", "error", err)
		return
	}
	listening, closeOld := d.Follow(l, devices, func(dl *DeviceListener) {
		ctx, cancel := context.WithCancel(ctx)
		dl.Stop = cancel
		run(func() error {
			if err := by.Proxy(ctx, dl.Proxy); err != nil {
				d.log.Error("a proxy listener on a network device failed; proxied connections of sockets bound to the device are reset", "address", dl.Proxy.Addr(), "error", err)
			}
			return nil
		})
		answer(func() error {
			if err := by.DNS(ctx, dl.DNSUDP, []net.Listener{dl.DNSTCP}); err != nil {
				d.log.Error("a DNS listener on a network device failed; sockets bound to the device get no DNS answers", "address", dl.DNSTCP.Addr(), "error", err)
			}
			return nil
		})
	})
	if err := by.Tell(listening); err != nil {
		d.log.Error("the kernel could not be told where egressd listens for sockets that are bound to a device; their proxied traffic and DNS are refused", "error", err)
	}
	closeOld()
}

// Follow opens listeners at the addresses that devices have now, hands each new
// one to serve, and closes those of addresses that are gone. It returns the
// devices with the addresses where egressd listens.
func (d *Devices) Follow(l *Set, devices []link.Device, serve func(*DeviceListener)) (listening []loader.BoundDevice, closeOld func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(devices) > loader.MaxDevices {
		if !d.full {
			d.log.Warn("the node has more network devices than egressd can listen on; sockets that are bound to one of the others are refused what must be proxied, and DNS",
				"devices", len(devices), "listened_on", loader.MaxDevices)
		}
		d.full, devices = true, devices[:loader.MaxDevices]
	}
	wanted := map[netip.Addr]bool{}
	for _, dev := range devices {
		out := loader.BoundDevice{Index: dev.Index}
		for _, at := range []struct {
			addr netip.Addr
			to   *netip.Addr
		}{{dev.Addr4, &out.Addr4}, {dev.Addr6, &out.Addr6}} {
			if at.addr.IsValid() && d.open(l, at.addr, serve) {
				*at.to, wanted[at.addr] = at.addr, true
			}
		}
		if out.Addr4.IsValid() || out.Addr6.IsValid() {
			listening = append(listening, out)
		}
	}
	var old []*DeviceListener
	for addr, dl := range d.at {
		if !wanted[addr] {
			old = append(old, dl)
			delete(d.at, addr)
		}
	}
	maps.DeleteFunc(d.told, func(a netip.Addr, _ string) bool {
		return !slices.ContainsFunc(devices, func(dev link.Device) bool { return dev.Addr4 == a || dev.Addr6 == a })
	})
	return listening, func() {
		for _, dl := range old {
			dl.close()
		}
	}
}

// open says whether egressd listens at an address.
func (d *Devices) open(l *Set, addr netip.Addr, serve func(*DeviceListener)) bool {
	if d.at[addr] != nil {
		return true
	}
	dl, err := l.listenAt(addr)
	if err != nil {
		if d.told[addr] != err.Error() {
			d.log.Warn("egressd cannot listen at an address of a network device; sockets that are bound to that device are refused what must be proxied, and DNS",
				"address", addr, "error", err)
			d.told[addr] = err.Error()
		}
		return false
	}
	delete(d.told, addr)
	d.at[addr] = dl
	serve(dl)
	return true
}

// close ends serving, or closes what was never served.
func (dl *DeviceListener) close() {
	if dl.Stop != nil {
		dl.Stop()
		return
	}
	if dl.Proxy != nil {
		dl.Proxy.Close()
	}
	if dl.DNSTCP != nil {
		dl.DNSTCP.Close()
	}
	for _, u := range dl.DNSUDP {
		u.Close()
	}
}

// listenAt binds all the listeners' ports at an address of a device.
func (l *Set) listenAt(addr netip.Addr) (_ *DeviceListener, err error) {
	dl := &DeviceListener{}
	defer func() {
		if err != nil {
			dl.close()
		}
	}()
	lc := net.ListenConfig{KeepAlive: -1, Control: func(network, address string, c syscall.RawConn) error {
		if err := l.control(network, address, c); err != nil {
			return err
		}
		var err error
		cerr := c.Control(func(fd uintptr) { err = arrival.LocalOnly(fd) })
		if cerr != nil {
			return cerr
		}
		return err
	}}
	lc.SetMultipathTCP(false)
	ctx := context.Background() // binding does not wait
	for _, t := range []struct {
		port uint16
		to   **net.TCPListener
		name string
	}{{l.ports.Proxy, &dl.Proxy, proxySocket}, {l.ports.DNSTCP, &dl.DNSTCP, dnsTCPSocket}} {
		if *t.to = l.from.Listener(t.name, netip.AddrPortFrom(addr.WithZone(""), t.port)); *t.to != nil {
			continue
		}
		ln, err := lc.Listen(ctx, "tcp", netip.AddrPortFrom(addr, t.port).String())
		if err != nil {
			return nil, fmt.Errorf("listen: %w", err)
		}
		*t.to = ln.(*net.TCPListener)
	}
	for slot, port := range l.ports.DNSUDP {
		if u := l.from.Packet(dnsUDPSocket(slot), netip.AddrPortFrom(addr.WithZone(""), port)); u != nil {
			dl.DNSUDP = append(dl.DNSUDP, u)
			continue
		}
		pc, err := lc.ListenPacket(ctx, "udp", netip.AddrPortFrom(addr, port).String())
		if err != nil {
			return nil, fmt.Errorf("listen: %w", err)
		}
		dl.DNSUDP = append(dl.DNSUDP, pc)
	}
	return dl, nil
}

// Forget lets go of listeners that are closed.
func (d *Devices) Forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.at)
}
