// SPDX-License-Identifier: Apache-2.0

package world

import (
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Neighbour is a network namespace behind the node, as a container runtime makes it:
// a veth pair, addresses, and the node as its router.
type Neighbour struct {
	*Netns
	// Link is the node's end of the veth pair, and MAC its hardware address.
	Link string
	MAC  net.HardwareAddr
	// V4 and V6 are the pod's addresses.
	V4, V6 string
}

// AddNeighbour makes a neighbour; number tells pods apart, from 1 to 250. It goes away
// with the world.
func (w *World) AddNeighbour(link string, number int) (*Neighbour, error) {
	ns, err := newNetns("pod " + link)
	if err != nil {
		return nil, err
	}
	w.onClose(func() { _ = ns.Close() })
	p := &Neighbour{
		Netns: ns, Link: link,
		V4: fmt.Sprintf("10.88.%d.2", number), V6: fmt.Sprintf("fd88:%d::2", number),
	}
	gateways := [2]string{fmt.Sprintf("10.88.%d.1", number), fmt.Sprintf("fd88:%d::1", number)}
	err = errors.Join(ns.Do(enableIPv6), w.Node.Do(func() error { return p.wireNode(gateways) }))
	if err == nil {
		err = ns.Do(func() error {
			return errors.Join(setUp("lo"), addAddrs(Uplink, p.V4+"/24", p.V6+"/64"), setUp(Uplink), awaitLink(Uplink), awaitLocal(p.V6),
				defaultRoute(gateways[0]), defaultRoute(gateways[1]))
		})
	}
	if err == nil {
		err = w.Net.Do(func() error {
			return errors.Join(routeBack("10.88.0.0/16", NodeV4), routeBack("fd88::/16", NodeV6))
		})
	}
	if err != nil {
		return nil, fmt.Errorf("pod %s: %w", link, err)
	}
	return p, nil
}

func (p *Neighbour) wireNode(gateways [2]string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = p.Link
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: Uplink, PeerNamespace: netlink.NsFd(int(p.file.Fd()))}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("adding the veth pair: %w", err)
	}
	for _, file := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		if err := os.WriteFile("/proc/sys/net/"+file, []byte("1"), 0); err != nil {
			return err
		}
	}
	l, err := netlink.LinkByName(p.Link)
	if err != nil {
		return err
	}
	p.MAC = l.Attrs().HardwareAddr
	return errors.Join(addAddrs(p.Link, gateways[0]+"/24", gateways[1]+"/64"), setUp(p.Link))
}

// routeBack is the way from the internet to what is behind the node.
func routeBack(to, via string) error {
	dst, err := netlink.ParseIPNet(to)
	if err != nil {
		return err
	}
	if err := netlink.RouteReplace(&netlink.Route{Dst: dst, Gw: net.ParseIP(via)}); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("route to %s: %w", to, err)
	}
	return nil
}
