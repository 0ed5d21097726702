// SPDX-License-Identifier: Apache-2.0

package world

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
)

// The pods' network, which the internet has a route to by the node.
const (
	podsV4 = "10.77.0.0/16"
	podsV6 = "2001:db8:77::/48"
)

// podLink is a pod's end of the wire to the node.
const podLink = "eth0"

// Pod is a network namespace whose default route is the node.
type Pod struct {
	*Netns
	V4, V6 netip.Addr

	w *World
}

// AddPods joins n network namespaces to the node: each by a veth pair of its
// own, or all by one bridge. The node forwards for them. A world has one group
// of pods of each kind at most.
func (w *World) AddPods(n int, bridged bool) ([]*Pod, error) {
	group := 1
	if bridged {
		group = 2
	}
	if err := w.forwardForPods(); err != nil {
		return nil, err
	}
	bridge := ""
	if bridged {
		bridge = "pods"
		err := w.Node.Do(func() error {
			attrs := netlink.NewLinkAttrs()
			attrs.Name = bridge
			if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
				return fmt.Errorf("adding a bridge: %w", err)
			}
			v4, v6 := gatewayOf(group, 0)
			return errors.Join(addAddrs(bridge, v4+"/24", v6+"/64"), setUp(bridge))
		})
		if err != nil {
			return nil, err
		}
	}
	var pods []*Pod
	for i := range n {
		p, err := w.addPod(group, i, bridge)
		if err != nil {
			return nil, fmt.Errorf("pod %d: %w", i, err)
		}
		pods = append(pods, p)
	}
	return pods, nil
}

// gatewayOf is the node's address on the wire of a pod, or of a bridge.
func gatewayOf(group, wire int) (v4, v6 string) {
	return fmt.Sprintf("10.77.%d.1", group*100+wire), fmt.Sprintf("2001:db8:77:%d::1", group*100+wire)
}

// forwardForPods makes the node a router, and the internet know the way back.
func (w *World) forwardForPods() error {
	err := w.Node.Do(func() error {
		return errors.Join(
			os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0),
			os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0))
	})
	if err != nil {
		return err
	}
	return w.Net.Do(func() error {
		return errors.Join(routeTo(podsV4, NodeV4), routeTo(podsV6, NodeV6))
	})
}

// routeTo adds a route in the entered namespace.
func routeTo(prefix, via string) error {
	_, dst, err := net.ParseCIDR(prefix)
	if err != nil {
		return err
	}
	err = netlink.RouteReplace(&netlink.Route{Dst: dst, Gw: net.ParseIP(via)})
	if err != nil {
		return fmt.Errorf("route to %s by %s: %w", prefix, via, err)
	}
	return nil
}

func (w *World) addPod(group, i int, bridge string) (*Pod, error) {
	wire, host := i, 2
	if bridge != "" {
		wire, host = 0, 2+i
	}
	gw4, gw6 := gatewayOf(group, wire)
	v4 := fmt.Sprintf("10.77.%d.%d", group*100+wire, host)
	v6 := fmt.Sprintf("2001:db8:77:%d::%d", group*100+wire, host)
	ns, err := newNetns(fmt.Sprintf("pod%d-%d", group, i))
	if err != nil {
		return nil, err
	}
	w.onClose(func() { _ = ns.Close() })
	if err := ns.Do(enableIPv6); err != nil {
		return nil, err
	}
	side := fmt.Sprintf("pod%d-%d", group, i)
	err = w.Node.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = side
		veth := &netlink.Veth{LinkAttrs: attrs, PeerName: podLink, PeerNamespace: netlink.NsFd(int(ns.file.Fd()))}
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("adding the veth pair: %w", err)
		}
		if bridge == "" {
			return errors.Join(addAddrs(side, gw4+"/24", gw6+"/64"), setUp(side))
		}
		br, err := netlink.LinkByName(bridge)
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetMaster(veth, br), setUp(side))
	})
	if err != nil {
		return nil, err
	}
	p := &Pod{Netns: ns, V4: netip.MustParseAddr(v4), V6: netip.MustParseAddr(v6), w: w}
	err = ns.Do(func() error {
		return errors.Join(setUp("lo"), addAddrs(podLink, v4+"/24", v6+"/64"), setUp(podLink),
			awaitLink(podLink), awaitLocal(v6))
	})
	if err != nil {
		return nil, err
	}
	if err := w.Node.Do(func() error { return awaitLink(side) }); err != nil {
		return nil, err
	}
	return p, ns.Do(func() error {
		_, any4, _ := net.ParseCIDR("0.0.0.0/0")
		_, any6, _ := net.ParseCIDR("::/0")
		return errors.Join(
			netlink.RouteAdd(&netlink.Route{Dst: any4, Gw: net.ParseIP(gw4)}),
			netlink.RouteAdd(&netlink.Route{Dst: any6, Gw: net.ParseIP(gw6)}))
	})
}

// Cut takes the pod's default routes away.
func (p *Pod) Cut() error {
	return p.Do(func() error {
		var errs []error
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			routes, err := netlink.RouteList(nil, family)
			errs = append(errs, err)
			for _, r := range routes {
				if r.Gw != nil {
					errs = append(errs, netlink.RouteDel(&r))
				}
			}
		}
		return errors.Join(errs...)
	})
}

// Client is World.Client for a process of the pod.
func (p *Pod) Client(ctx context.Context, cg *Cgroup, name string, args ...string) *Cmd {
	c := p.w.Client(ctx, cg, name, args...)
	c.ns = p.Netns
	return c
}

// GiveNode gives the node more addresses, on its uplink.
func (w *World) GiveNode(addrs ...netip.Addr) error {
	return w.Node.Do(func() error {
		for _, a := range addrs {
			if err := addAddrs(Uplink, netip.PrefixFrom(a, a.BitLen()).String()); err != nil {
				return err
			}
		}
		return nil
	})
}

// TakeFromNode removes an address of the node, wherever it is.
func (w *World) TakeFromNode(addr netip.Addr) error {
	return w.Node.Do(func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		for _, l := range links {
			have, err := netlink.AddrList(l, netlink.FAMILY_ALL)
			if err != nil {
				return err
			}
			for _, a := range have {
				if a.IP.Equal(addr.AsSlice()) {
					return netlink.AddrDel(l, &a)
				}
			}
		}
		return fmt.Errorf("the node has no address %s", addr)
	})
}

// NodeAddrs lists the addresses of the node.
func (w *World) NodeAddrs() ([]netip.Addr, error) {
	var out []netip.Addr
	err := w.Node.Do(func() error {
		have, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
		for _, a := range have {
			if addr, ok := netip.AddrFromSlice(a.IP); ok {
				out = append(out, addr.Unmap())
			}
		}
		return err
	})
	return out, err
}

// AddDevice gives the node a network device that leads nowhere, with addresses.
func (w *World) AddDevice(name string, addrs ...netip.Addr) error {
	return w.Node.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: name + "-end"}); err != nil {
			return err
		}
		for _, end := range []string{name, name + "-end"} {
			l, err := netlink.LinkByName(end)
			if err == nil {
				err = netlink.LinkSetUp(l)
			}
			if err != nil {
				return err
			}
		}
		for _, a := range addrs {
			if err := addAddrs(name, netip.PrefixFrom(a, a.BitLen()).String()); err != nil {
				return err
			}
		}
		return nil
	})
}
