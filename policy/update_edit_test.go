// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"slices"

	"github.com/egressd/egressd/internal/hostname"
)

// editRules adds or removes a VirtualService or a DestinationRule, and leaves
// the others what they are.
func (g *generator) editRules(c *Config) {
	if n := len(c.DestinationRules); g.r.IntN(2) == 0 {
		c.DestinationRules = slices.Clone(c.DestinationRules)
		if n > 3 {
			i := g.r.IntN(n)
			c.DestinationRules = slices.Delete(c.DestinationRules, i, i+1)
			return
		}
		c.DestinationRules = slices.Insert(c.DestinationRules, g.r.IntN(n+1), g.destinationRules()...)
		return
	}
	c.VirtualServices = slices.Clone(c.VirtualServices)
	n := len(c.VirtualServices)
	if n > 4 {
		i := g.r.IntN(n)
		c.VirtualServices = slices.Delete(c.VirtualServices, i, i+1)
		return
	}
	v := vs(fmt.Sprint("more", n), mesh, names(hostname.Pattern(g.one("x.example.com", "*.example.com", "z.example.com"))))
	v.Ref.Namespace = g.one("a", "b", "default")
	if g.r.IntN(2) == 0 {
		v.Export = Visibility{Limited: true, Namespaces: []string{v.Ref.Namespace}}
	}
	v.HTTP = []*HTTPRule{to("", g.one("x.example.com", "y.example.com", "kube.a.svc.cluster.local"), 0)}
	v.HTTP[0].Matches = []*HTTPMatch{{SourceLabels: map[string]string{"app": g.one("x", "y")}}}
	c.VirtualServices = slices.Insert(c.VirtualServices, g.r.IntN(n+1), v)
}

// editWorkloads changes the labels of a workload.
func (g *generator) editWorkloads(all []*Workload) []*Workload {
	if len(all) == 0 {
		return all
	}
	all = slices.Clone(all)
	i := g.r.IntN(len(all))
	w := *all[i]
	w.Labels = map[string]string{"app": g.one("x", "y", "z"), "version": g.one("1", "2")}
	all[i] = &w
	return all
}
