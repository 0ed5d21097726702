// SPDX-License-Identifier: Apache-2.0

package control

import (
	"net/netip"
	"slices"

	"github.com/egressd/egressd/policy"
)

// ClusterStatus is what is inside of the node's Kubernetes cluster, as the policy in
// force has it.
type ClusterStatus struct {
	// Prefixes are all of it, sorted; Found are those of them that objects say, and
	// not --cluster-cidr itself.
	Prefixes []netip.Prefix `json:"prefixes"`
	Found    []netip.Prefix `json:"found,omitempty"`
	// Problem says that nothing was found, and what that means.
	Problem string `json:"problem,omitempty"`
}

// foundNothing is the problem of a cluster that says nothing of its networks.
const foundNothing = "--cluster-cidr auto found no network of Services or Pods: there is none in ServiceCIDRs, the Node's podCIDRs and kubeadm's ConfigMap, or egressd may not read them; " +
	"Services and other pods are refused, unless --cluster-cidr or a ServiceEntry names them; name their networks, as in --cluster-cidr auto,10.96.0.0/12,10.244.0.0/16"

// clusterStatus says what is inside of the cluster; nil: the node is part of none.
func (o *Options) clusterStatus(s *policy.Snapshot) *ClusterStatus {
	if !o.FindCluster && len(o.Cluster.Prefixes) == 0 {
		return nil
	}
	c := &ClusterStatus{Prefixes: s.Cluster().Prefixes}
	for _, p := range c.Prefixes {
		if !slices.Contains(o.Cluster.Prefixes, p) {
			c.Found = append(c.Found, p)
		}
	}
	if o.FindCluster && len(c.Found) == 0 {
		c.Problem = foundNothing
	}
	return c
}

// sayCluster logs that nothing was found of the cluster, once, and when that is over.
func (c *Control) sayCluster() {
	now := c.o.clusterStatus(c.Snapshot())
	if now == nil {
		return
	}
	switch lost := now.Problem != ""; {
	case lost && !c.lost:
		c.o.Log.Error("egressd does not know what is inside of the cluster", "problem", now.Problem, "prefixes", now.Prefixes)
	case !lost && c.lost:
		c.o.Log.Info("egressd knows what is inside of the cluster", "found", now.Found, "prefixes", now.Prefixes)
	}
	c.lost = now.Problem != ""
}
