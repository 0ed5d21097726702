// SPDX-License-Identifier: Apache-2.0

package kube

import (
	core "k8s.io/api/core/v1"
	kubenet "k8s.io/api/networking/v1"
)

// bare begins a document that has nothing but its name.
func (d document) bare() document {
	d.Metadata.Labels, d.Metadata.Annotations, d.Metadata.CreationTimestamp = nil, nil, nil
	return d
}

// renderServiceCIDR renders the networks that addresses of Services are of.
func renderServiceCIDR(t *table, v any) *object {
	s, ok := v.(*kubenet.ServiceCIDR)
	if !ok {
		return nil
	}
	d := t.start(s).bare()
	d.Spec = map[string]any{"cidrs": s.Spec.CIDRs}
	return d.object()
}

// renderNode renders the networks of the node's Pods.
func renderNode(t *table, v any) *object {
	n, ok := v.(*core.Node)
	if !ok {
		return nil
	}
	d := t.start(n).bare()
	spec := map[string]any{}
	if len(n.Spec.PodCIDRs) > 0 {
		spec["podCIDRs"] = n.Spec.PodCIDRs
	} else if n.Spec.PodCIDR != "" {
		spec["podCIDR"] = n.Spec.PodCIDR
	}
	d.Spec = spec
	return d.object()
}

// renderKubeadm renders the text that has kubeadm's ClusterConfiguration.
func renderKubeadm(t *table, v any) *object {
	c, ok := v.(*core.ConfigMap)
	if !ok {
		return nil
	}
	d := t.start(c).bare()
	if text, ok := c.Data["ClusterConfiguration"]; ok {
		d.Data = map[string]string{"ClusterConfiguration": text}
	}
	return d.object()
}
