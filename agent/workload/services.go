// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"errors"
	"fmt"
	"strings"

	"github.com/egressd/egressd/internal/cgroup"
)

// NodeServices is the name under which the node's own services are shown.
const NodeServices = "node-services"

// nodeServices are the cgroups of what a node needs to come up and to stay
// reachable: who gives it its addresses (DHCP and router discovery by packet
// sockets, raw sockets and datagrams that no rule names), and, on a Kubernetes
// node, the kubelet and the container runtime (not the containers: they have
// cgroups of their own). Whoever controls one of these controls the node.
var nodeServices = []string{
	"system.slice/systemd-networkd.service",
	"system.slice/NetworkManager.service",
	"system.slice/networking.service",
	"system.slice/system-ifup.slice",
	"system.slice/dhcpcd.service",
	"system.slice/dhcpcd@*.service",
	"system.slice/connman.service",
	"system.slice/wpa_supplicant.service",
	"system.slice/cloud-init*.service",
	"system.slice/kubelet.service",
	"system.slice/containerd.service",
	"system.slice/crio.service",
}

// ParseNodeServices reads the choice of the cgroups that are not under policy
// although everything is captured: "auto" for the node's own services when
// whole, "none", or patterns as in Workload objects, separated by commas.
func ParseNodeServices(s string, whole bool) ([]cgroup.PathPattern, error) {
	list := strings.Split(s, ",")
	switch s {
	case "none":
		return nil, nil
	case "auto":
		if !whole {
			return nil, nil
		}
		list = nodeServices
	}
	var out []cgroup.PathPattern
	for _, p := range list {
		p = strings.TrimSpace(p)
		switch {
		case p == "" || p == "/" || p == "**":
			return nil, errors.New("give auto, none, or cgroups below the root such as system.slice/dhcpcd.service")
		case strings.HasPrefix(p, "/"):
			return nil, fmt.Errorf("%s: write the path below the root of the cgroup tree, without the leading slash", p)
		}
		out = append(out, cgroup.PathPattern(p))
	}
	return out, nil
}
