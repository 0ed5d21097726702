// SPDX-License-Identifier: Apache-2.0

package agent

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
)

// deviceListeners are egressd's sockets at addresses of the node's devices, for
// workloads' sockets that are bound to a device and so cannot reach loopback. They
// have the ports of those on loopback, and hear this machine only.
type deviceListeners struct {
	log *slog.Logger
	mu  sync.Mutex
	at  map[netip.Addr]*deviceListener
	// told are the addresses where it was said that nobody could listen, with
	// the error.
	told map[netip.Addr]string
	full bool // it was said that there are too many devices
}

type deviceListener struct {
	proxy  *net.TCPListener
	dnsTCP *net.TCPListener
	dnsUDP []net.PacketConn
	stop   context.CancelFunc // ends serving; nil before
}

func newDeviceListeners(log *slog.Logger) *deviceListeners {
	return &deviceListeners{log: log, at: map[netip.Addr]*deviceListener{}, told: map[netip.Addr]string{}}
}

// follow opens listeners at the addresses that devices have now, hands each new
// one to serve, and closes those of addresses that are gone. It returns the
// devices with the addresses where egressd listens.
func (d *deviceListeners) follow(l *listeners, devices []link.Device, serve func(*deviceListener)) (listening []loader.Device, closeOld func()) {
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
		out := loader.Device{Index: dev.Index}
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
	var old []*deviceListener
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
func (d *deviceListeners) open(l *listeners, addr netip.Addr, serve func(*deviceListener)) bool {
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
func (dl *deviceListener) close() {
	if dl.stop != nil {
		dl.stop()
		return
	}
	if dl.proxy != nil {
		dl.proxy.Close()
	}
	if dl.dnsTCP != nil {
		dl.dnsTCP.Close()
	}
	for _, u := range dl.dnsUDP {
		u.Close()
	}
}

// listenAt binds all the listeners' ports at an address of a device.
func (l *listeners) listenAt(addr netip.Addr) (_ *deviceListener, err error) {
	dl := &deviceListener{}
	defer func() {
		if err != nil {
			dl.close()
		}
	}()
	lc := net.ListenConfig{Control: func(network, address string, c syscall.RawConn) error {
		if err := l.control(network, address, c); err != nil {
			return err
		}
		var err error
		cerr := c.Control(func(fd uintptr) { err = loader.LocalOnly(fd) })
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
	}{{l.ports.Proxy, &dl.proxy, proxySocket}, {l.ports.DNSTCP, &dl.dnsTCP, dnsTCPSocket}} {
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
			dl.dnsUDP = append(dl.dnsUDP, u)
			continue
		}
		pc, err := lc.ListenPacket(ctx, "udp", netip.AddrPortFrom(addr, port).String())
		if err != nil {
			return nil, fmt.Errorf("listen: %w", err)
		}
		dl.dnsUDP = append(dl.dnsUDP, pc)
	}
	return dl, nil
}

// followDevices makes egressd listen on the node's devices as they are now. run
// starts a function that is waited for at the end, and answer one that may go on
// longer.
func (a *Agent) followDevices(ctx context.Context, run, answer func(func() error)) {
	devices, err := link.Devices()
	if err != nil {
		a.log.Warn("the network devices could not be listed; egressd goes on listening on those that it knows", "error", err)
		return
	}
	listening, closeOld := a.devices.follow(a.sockets, devices, func(dl *deviceListener) {
		ctx, cancel := context.WithCancel(ctx)
		dl.stop = cancel
		run(func() error {
			if err := a.outgoing.Serve(ctx, dl.proxy, a.identify); err != nil {
				a.log.Error("a listener on a network device failed; sockets that are bound to the device are reset", "address", dl.proxy.Addr(), "error", err)
			}
			return nil
		})
		answer(func() error {
			if err := a.dns.Serve(ctx, dl.dnsUDP, []net.Listener{dl.dnsTCP}); err != nil {
				a.log.Error("a DNS listener on a network device failed; sockets that are bound to the device have no DNS", "address", dl.dnsTCP.Addr(), "error", err)
			}
			return nil
		})
	})
	if err := a.datapath.SetDevices(listening); err != nil {
		a.log.Error("the kernel was not told where egressd listens for sockets that are bound to a device; they are refused", "error", err)
	}
	closeOld()
}
