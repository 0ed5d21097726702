// SPDX-License-Identifier: Apache-2.0

// Package machine is a machine beside the node: a network stack of its own
// (gVisor's) at the other end of a tap device, as a virtual machine or a
// sandbox has one. Its sockets are not in the kernel. For tests only.
package machine

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/world"
)

// The addresses of the first machine.
const (
	V4 = "10.77.0.2"
	V6 = "fd77:0::2"
)

// MAC is the machine's hardware address.
var MAC = net.HardwareAddr{2, 0, 0, 0, 0, 0x77}

// Tap is a tap device on the node, with the way to and from the internet.
type Tap struct {
	// Index and Name are those of the device on the node.
	Index int
	Name  string
	// Host is the device's own hardware address.
	Host net.HardwareAddr

	// V4 and V6 are the machine's addresses, HostV4 and HostV6 the node's
	// towards it.
	V4, V6, HostV4, HostV6 string

	fd   int
	node *world.Netns
}

// NewTap makes a tap device on the node of a world and lets the node forward.
// number tells taps apart that are there at the same time, from 0 to 255.
func NewTap(w *world.World, name string, number int) (t *Tap, err error) {
	t = &Tap{
		Name: name, fd: -1, node: w.Node,
		V4: fmt.Sprintf("10.77.%d.2", number), V6: fmt.Sprintf("fd77:%d::2", number),
		HostV4: fmt.Sprintf("10.77.%d.1", number), HostV6: fmt.Sprintf("fd77:%d::1", number),
	}
	err = w.Node.Do(func() error {
		var err error
		if t.fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0); err != nil {
			return fmt.Errorf("open /dev/net/tun: %w", err)
		}
		req, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		if err := unix.IoctlIfreq(t.fd, unix.TUNSETIFF, req); err != nil {
			return fmt.Errorf("make the tap device: %w", err)
		}
		return t.setUp()
	})
	if err == nil {
		err = w.Net.Do(func() error {
			return errors.Join(route("10.77.0.0/16", world.NodeV4), route("fd77::/16", world.NodeV6))
		})
	}
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

func (t *Tap) setUp() error {
	for file, value := range map[string]string{
		"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1",
	} {
		if err := os.WriteFile("/proc/sys/net/"+file, []byte(value), 0); err != nil {
			return err
		}
	}
	l, err := netlink.LinkByName(t.Name)
	if err != nil {
		return err
	}
	t.Index, t.Host = l.Attrs().Index, l.Attrs().HardwareAddr
	for _, p := range []string{t.HostV4 + "/24", t.HostV6 + "/64"} {
		addr, err := netlink.ParseAddr(p)
		if err != nil {
			return err
		}
		if addr.IP.To4() == nil {
			addr.Flags |= unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(l, addr); err != nil {
			return fmt.Errorf("address %s: %w", p, err)
		}
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return err
	}
	for _, a := range []string{t.V4, t.V6} {
		if err := t.neighbour(l, a); err != nil {
			return err
		}
	}
	return nil
}

// neighbour spares the node the question where an address is: a tap that
// nobody reads from answers none.
func (t *Tap) neighbour(l netlink.Link, addr string) error {
	family := netlink.FAMILY_V4
	if netip.MustParseAddr(addr).Is6() {
		family = netlink.FAMILY_V6
	}
	err := netlink.NeighSet(&netlink.Neigh{
		LinkIndex: l.Attrs().Index, Family: family, State: netlink.NUD_PERMANENT,
		IP: net.ParseIP(addr), HardwareAddr: MAC,
	})
	if err != nil {
		return fmt.Errorf("neighbour %s: %w", addr, err)
	}
	return nil
}

func route(to, via string) error {
	dst, err := netlink.ParseIPNet(to)
	if err != nil {
		return err
	}
	if err := netlink.RouteReplace(&netlink.Route{Dst: dst, Gw: net.ParseIP(via)}); err != nil {
		return fmt.Errorf("route to %s: %w", to, err)
	}
	return nil
}

// Send lets the device have received a frame.
func (t *Tap) Send(frame []byte) error {
	_, err := unix.Write(t.fd, frame)
	return err
}

// Receive returns the next frame that the node sent, or EAGAIN after the time
// in milliseconds.
func (t *Tap) Receive(ms int) ([]byte, error) {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(t.fd), Events: unix.POLLIN}}, ms)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return nil, errors.Join(err, unix.EAGAIN)
		}
		buf := make([]byte, 1<<16)
		n, err = unix.Read(t.fd, buf)
		if errors.Is(err, unix.EAGAIN) {
			continue
		}
		return buf[:max(n, 0)], err
	}
}

// Close removes the device.
func (t *Tap) Close() error {
	if t.fd < 0 {
		return nil
	}
	fd := t.fd
	t.fd = -1
	return unix.Close(fd)
}
