// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/egressd/egressd/policy"
)

// clusterFlags say what is inside of the node's Kubernetes cluster.
type clusterFlags struct{ prefixes, domains, servers []string }

// register adds the flags of the commands that read a policy.
func (f *clusterFlags) register(cmd *cobra.Command) {
	fs := cmd.Flags()
	listVar(fs, &f.prefixes, "cluster-cidr", "the addresses of the cluster's Services and Pods, which every workload reaches unless a Sidecar with egress hosts applies to it: CIDR,...; auto adds those of the ServiceCIDR objects, the Nodes and kubeadm's ConfigMap that the policy has")
	listVar(fs, &f.domains, "cluster-domain", "what names of the cluster end in (default "+policy.DefaultClusterDomain+")")
	listVar(fs, &f.servers, "cluster-dns", "address of the cluster's DNS server, as kubelet's clusterDNS has it (default: those of the Service kube-system/kube-dns)")
}

// read returns what the flags say, and whether the policy's objects say more.
func (f *clusterFlags) read() (policy.Cluster, bool, error) {
	c, find, err := policy.ParseCluster(f.prefixes, f.domains, f.servers)
	switch {
	case err != nil:
		return c, find, usageError{fmt.Errorf("--cluster-cidr, --cluster-domain and --cluster-dns: %w", err)}
	case len(c.Prefixes) == 0 && !find && len(c.Domains)+len(c.Servers) > 0:
		return c, find, usageError{fmt.Errorf("--cluster-domain and --cluster-dns speak of a cluster: give --cluster-cidr, too")}
	}
	return c, find, nil
}
