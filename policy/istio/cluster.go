// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// The ConfigMap in which kubeadm keeps how it made the cluster.
const (
	kubeadmName      = "kubeadm-config"
	kubeadmNamespace = "kube-system"
	kubeadmKey       = "ClusterConfiguration"
)

// isKubeadmConfigMap says whether a ConfigMap is kubeadm's.
func isKubeadmConfigMap(n *strictyaml.Node) bool {
	text := func(key string) string {
		if v := n.Get("metadata").Get(key); v != nil && v.Kind == strictyaml.Scalar {
			return v.Text
		}
		return ""
	}
	return text("name") == kubeadmName && text("namespace") == kubeadmNamespace && n.Get("data").Field(kubeadmKey) != nil
}

// kubeadm is a kubeadm ClusterConfiguration, as far as it says what is inside of
// the cluster (kubeadm.k8s.io/v1beta3 and v1beta4).
type kubeadm struct {
	*object
	at *strictyaml.Node
}

// decodeKubeadm reads the ClusterConfiguration that a ConfigMap holds as text.
// It is another program's, so that nothing but the networks in it is looked at.
func decodeKubeadm(o *object, d *draft) {
	docs, ok := o.within(o.root.At("data", kubeadmKey))
	if ok && len(docs) > 0 {
		d.take = func(l *loader) { l.kubeadm = append(l.kubeadm, kubeadm{o, docs[0]}) }
	}
}

// cluster is what the operator says of the cluster, and, where that is to be
// found out, what its objects say: the networks of ServiceCIDRs, the networks
// of Pods of Nodes, and both of kubeadm's ConfigMap, with the cluster's domain.
func (l *loader) cluster() policy.Cluster {
	out := l.inside
	if !l.findCluster {
		return out
	}
	out.Prefixes, out.Domains = slices.Clone(out.Prefixes), slices.Clone(out.Domains)
	for _, d := range l.serviceCIDRs {
		for i, s := range d.v.Spec.CIDRs {
			d.clusterPrefix(&out, d.root.At("spec", "cidrs", i), s)
		}
	}
	for _, d := range l.nodes {
		list := d.v.Spec.PodCIDRs
		if len(list) == 0 && d.v.Spec.PodCIDR != "" {
			list = []string{d.v.Spec.PodCIDR}
		}
		for _, s := range list {
			d.clusterPrefix(&out, d.root.At("spec"), s)
		}
	}
	for _, k := range l.kubeadm {
		networks := k.at.Get("networking")
		for _, key := range []string{"podSubnet", "serviceSubnet"} {
			n := networks.Get(key)
			if n == nil || n.Kind != strictyaml.Scalar || n.Text == "" {
				continue
			}
			for s := range strings.SplitSeq(n.Text, ",") {
				k.clusterPrefix(&out, n, strings.TrimSpace(s))
			}
		}
		if n := networks.Get("dnsDomain"); n != nil && n.Kind == strictyaml.Scalar && n.Text != "" && len(l.inside.Domains) == 0 {
			domain, err := policy.ParseClusterDomain(n.Text)
			if err != nil {
				k.Errorf(n, "networking.dnsDomain: %s", err)
			} else if !slices.Contains(out.Domains, domain) {
				out.Domains = append(out.Domains, domain)
			}
		}
	}
	slices.SortFunc(out.Prefixes, func(x, y netip.Prefix) int { return strings.Compare(x.String(), y.String()) })
	out.Prefixes = slices.Compact(out.Prefixes)
	return out
}

// clusterPrefix adds one that an object says.
func (o *object) clusterPrefix(c *policy.Cluster, at *strictyaml.Node, s string) {
	p, err := policy.ParseClusterPrefix(s)
	if err != nil {
		o.Errorf(at, "network of the cluster: %s", err)
		return
	}
	c.Prefixes = append(c.Prefixes, p)
}

// translateCluster reads what is inside of the cluster.
func translateCluster(l *loader, cfg *policy.Config) {
	cfg.Cluster = l.cluster()
	clusterNames(cfg)
}

// clusterNames adds the names that Kubernetes Services have under the cluster's
// own domains, beside those that Istio's objects have them by.
func clusterNames(cfg *policy.Config) {
	for _, domain := range cfg.Cluster.Names() {
		if domain == policy.DefaultClusterDomain {
			continue
		}
		for i, s := range cfg.Services {
			if h, err := hostname.ParsePattern(s.Ref.Name + "." + s.Ref.Namespace + ".svc." + domain); err == nil && !s.External && len(s.Hosts) > 0 {
				named := *s // which is translated once, whatever the domains are
				named.Hosts = append(slices.Clip(s.Hosts), h)
				cfg.Services[i] = &named
			}
		}
	}
}

// isReadConfigMap says whether a ConfigMap has something for egressd in it: most
// have not.
func isReadConfigMap(n *strictyaml.Node) bool { return isMeshConfigMap(n) || isKubeadmConfigMap(n) }
