// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"strings"
)

// prefer finds what the endpoints of u are compared with, for workloads with labels
// (istio pilot/pkg/networking/core/loadbalancer, priorityLabelOverrides). A key that is
// listed with a value has that wherever it is listed.
func (u *Upstream) prefer(labels map[string]string) {
	u.Failover = nil
	list := u.Traffic.FailoverPriority()
	if len(list) == 0 {
		return
	}
	said := map[string]string{}
	for _, label := range list {
		if name, value, ok := strings.Cut(label, "="); ok {
			said[name] = value
		}
	}
	for _, label := range list {
		name, _, _ := strings.Cut(label, "=")
		value, fixed := said[name]
		if !fixed {
			value = labels[name]
		}
		u.Failover = append(u.Failover, FailoverLabel{name, value, fixed})
	}
}

// LabelsAt are the labels of the i-th of u's endpoints and names.
func (u *Upstream) LabelsAt(i int) map[string]string {
	labels := u.labels
	if i >= len(u.Endpoints) {
		i, labels = i-len(u.Endpoints), u.nameLabels
	}
	if i >= len(labels) {
		return nil
	}
	return labels[i]
}

// WithEndpoints is u with a list of endpoints alone, each of which is one of u's, or
// an address of one of its names: from says which.
func (u *Upstream) WithEndpoints(list []UpstreamEndpoint, from []int) *Upstream {
	out := *u
	out.Endpoints, out.Names, out.labels, out.nameLabels = list, nil, nil, nil
	if len(u.Failover) > 0 {
		for _, i := range from {
			out.labels = append(out.labels, u.LabelsAt(i))
		}
	}
	return &out
}

// failoverText says what the priorities of the endpoints depend on.
func (u *Upstream) failoverText() string {
	if len(u.Failover) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString(" failover")
	for _, l := range u.Failover {
		fmt.Fprintf(&b, " %s=%s", l.Name, l.Value)
	}
	for i := range len(u.Endpoints) + len(u.Names) {
		b.WriteString(" [")
		for j, l := range u.Failover {
			if j > 0 {
				b.WriteByte(' ')
			}
			b.WriteString(u.LabelsAt(i)[l.Name])
		}
		b.WriteByte(']')
	}
	return b.String()
}
