// SPDX-License-Identifier: Apache-2.0

package world

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Uplink is the name of the node's only way out.
const Uplink = "eth0"

// linkWait bounds how long the wire may take to come up.
const linkWait = 5 * time.Second

// peerLink is the internet's end of the veth pair.
const peerLink = "node0"

// wire joins the two namespaces with a veth pair, addresses and default routes.
func wire(node, inet *Netns) error {
	// Before the link is there: it takes its settings over when it is made.
	if err := errors.Join(node.Do(enableIPv6), inet.Do(enableIPv6)); err != nil {
		return err
	}
	err := node.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = Uplink
		veth := &netlink.Veth{LinkAttrs: attrs, PeerName: peerLink, PeerNamespace: netlink.NsFd(int(inet.file.Fd()))}
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("adding the veth pair: %w", err)
		}
		return errors.Join(setUp("lo"), addAddrs(Uplink, NodeV4+"/24", NodeV6+"/64"), setUp(Uplink))
	})
	if err != nil {
		return fmt.Errorf("namespace node: %w", err)
	}
	err = inet.Do(func() error {
		return errors.Join(setUp("lo"), addAddrs(peerLink, gatewayV4+"/24", gatewayV6+"/64"), setUp(peerLink))
	})
	if err != nil {
		return fmt.Errorf("namespace net: %w", err)
	}
	err = errors.Join(
		node.Do(func() error { return errors.Join(awaitLink(Uplink), awaitLocal(NodeV6)) }),
		inet.Do(func() error { return errors.Join(awaitLink(peerLink), awaitLocal(gatewayV6)) }))
	if err != nil {
		return err
	}
	err = node.Do(func() error {
		return errors.Join(defaultRoute(gatewayV4), defaultRoute(gatewayV6))
	})
	if err != nil {
		return fmt.Errorf("namespace node: %w", err)
	}
	return nil
}

// enableIPv6 makes IPv6 usable in the entered namespace at once. /proc/sys/net
// shows the namespace of the thread that opens it. It may be read-only in a
// container, which matters only if IPv6 was off by default.
func enableIPv6() error {
	for _, conf := range []string{"default", "all"} {
		dir := "/proc/sys/net/ipv6/conf/" + conf
		// The addresses carry IFA_F_NODAD; this is for the link-local ones.
		_ = os.WriteFile(dir+"/accept_dad", []byte("0"), 0)
		_ = os.WriteFile(dir+"/disable_ipv6", []byte("0"), 0)
		if b, err := os.ReadFile(dir + "/disable_ipv6"); err != nil || len(b) == 0 || b[0] != '0' {
			return fmt.Errorf("IPv6 is off in new network namespaces (%s/disable_ipv6)", dir)
		}
	}
	return nil
}

// setUp brings a link of the entered namespace up.
func setUp(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("link %s up: %w", name, err)
	}
	return nil
}

// awaitLink waits until the kernel knows that a link is up at both ends.
// Until then IPv6 does not use it. The kernel may take a second to look, but
// since Linux 6.8 it looks when it is asked.
func awaitLink(name string) error {
	for deadline := time.Now().Add(linkWait); ; time.Sleep(time.Millisecond) {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("link %s: %w", name, err)
		}
		if link.Attrs().OperState == netlink.OperUp {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("link %s is %s after %s", name, link.Attrs().OperState, linkWait)
		}
	}
}

// addAddrs adds prefixes to a link of the entered namespace, without
// duplicate address detection: there is nobody else, and it takes a second.
func addAddrs(name string, prefixes ...string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	for _, p := range prefixes {
		addr, err := netlink.ParseAddr(p)
		if err != nil {
			return err
		}
		if addr.IP.To4() == nil {
			addr.Flags |= unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(link, addr); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("address %s on %s: %w", p, name, err)
		}
	}
	return nil
}

// addHost gives the entered namespace one more address of its own.
func addHost(a netip.Addr) error {
	if err := addAddrs("lo", netip.PrefixFrom(a, a.BitLen()).String()); err != nil {
		return err
	}
	return awaitLocal(a.String())
}

// awaitLocal waits until the entered namespace takes packets for an address
// of its own. For IPv6 the kernel makes the route some time after the address
// (in a workqueue); what comes earlier is lost, and sent again after 1 s.
func awaitLocal(addr string) error {
	ip := net.ParseIP(addr)
	for deadline := time.Now().Add(linkWait); ; time.Sleep(time.Millisecond) {
		routes, err := netlink.RouteGet(ip)
		if err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("no local route to %s after %s (%v)", addr, linkWait, err)
		}
	}
}

// defaultRoute adds a default route of the gateway's family.
func defaultRoute(gateway string) error {
	link, err := netlink.LinkByName(Uplink)
	if err != nil {
		return fmt.Errorf("link %s: %w", Uplink, err)
	}
	err = netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.ParseIP(gateway)})
	if err != nil {
		return fmt.Errorf("default route by %s: %w", gateway, err)
	}
	return nil
}
