// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/egressd/egressd/internal/quote"
)

func uninstallCommand(c *cluster) *cobra.Command {
	var yes bool
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Remove egressd from the kernel of every node, and then from the cluster",
		Long: `uninstall opens all traffic. The pods of egressd's DaemonSets are replaced by ones that
remove its programs and tables from the kernel of their node. When that is done on all
nodes, everything that was installed is deleted. Where it is not done on some node within
--wait, these are named and nothing is deleted: mend that and call it again.

What "helm install" made is left to "helm uninstall", which is named then.`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.uninstall(cmd.Context(), yes, wait)
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().DurationVar(&wait, "wait", 5*time.Minute, "how long the nodes may take")
	return cmd
}

// daemonSet is a DaemonSet as the API server has it; what is not named here stays.
type daemonSet map[string]any

// dig is a part of an object: maps by names, and the first element of lists.
func dig[T any](o any, path ...string) (T, bool) {
	for _, name := range path {
		m, _ := o.(map[string]any)
		o = m[name]
		if list, ok := o.([]any); ok && len(list) > 0 && name != path[len(path)-1] {
			o = list[0]
		}
	}
	t, ok := o.(T)
	return t, ok
}

func (d daemonSet) name() string {
	name, _ := dig[string](map[string]any(d), "metadata", "name")
	return name
}

// release is the Helm release that it belongs to; "": none.
func (d daemonSet) release() string {
	release, _ := dig[string](map[string]any(d), "metadata", "annotations", "meta.helm.sh/release-name")
	return release
}

// unloading turns a DaemonSet of daemons into one whose pods take egressd out of the
// kernel and stay. One that is that already is left as it is.
func (d daemonSet) unloading() error {
	o := map[string]any(d)
	spec, ok := dig[map[string]any](o, "spec", "template", "spec")
	if !ok {
		return fmt.Errorf("DaemonSet %s has no pods", d.name())
	}
	list, _ := dig[[]any](spec, "containers")
	if len(list) != 1 {
		return fmt.Errorf("DaemonSet %s has %d containers, and that of egressd alone is known", d.name(), len(list))
	}
	container, ok := list[0].(map[string]any)
	if !ok {
		return fmt.Errorf("DaemonSet %s has no container", d.name())
	}
	for _, name := range []string{"startupProbe", "readinessProbe", "livenessProbe", "env", "envFrom", "command"} {
		delete(container, name)
	}
	first := maps.Clone(container)
	first["name"], first["args"] = "unload", []any{"unload"}
	container["args"] = []any{"unload", "--stay"}
	spec["initContainers"] = []any{first}
	top, _ := dig[map[string]any](o, "spec")
	// The daemon must be gone before, or it puts back what is removed.
	top["updateStrategy"] = map[string]any{"type": "RollingUpdate", "rollingUpdate": map[string]any{"maxSurge": 0, "maxUnavailable": "100%"}}
	delete(o, "status")
	return nil
}

// uninstall takes egressd out of all kernels, and then out of the cluster.
func (c *cluster) uninstall(ctx context.Context, yes bool, wait time.Duration) error {
	sets, err := c.daemonSets(ctx)
	if err != nil {
		return err
	}
	if len(sets) == 0 {
		return fmt.Errorf("no DaemonSet of egressd in namespace %s; --egressd-namespace says where it is installed. "+
			"If it was deleted without this, nodes still have it in their kernels: apply deploy/kubernetes/uninstall.yaml", c.namespace)
	}
	if !yes && !c.agreed() {
		return errors.New("nothing was changed")
	}
	for _, d := range sets {
		if err := c.unload(ctx, d); err != nil {
			return err
		}
	}
	deadline := time.Now().Add(wait)
	for _, d := range sets {
		left := max(time.Until(deadline), time.Second).Round(time.Second)
		if _, err := c.call(ctx, nil, "rollout", "status", "daemonset/"+d.name(), "--namespace", c.namespace, "--timeout", left.String()); err != nil {
			return c.notUnloaded(ctx, err)
		}
		fmt.Fprintf(c.stdout, "DaemonSet %s: egressd is in the kernel of no node any more, and all traffic is open\n", d.name())
	}
	return c.remove(ctx, sets)
}

// agreed asks whether it is meant so.
func (c *cluster) agreed() bool {
	fmt.Fprint(c.stderr, "This opens all traffic of all pods, and removes egressd from every node. Go on? [y/N] ")
	line, _ := bufio.NewReader(c.stdin).ReadString('\n') // no answer is no
	return slices.Contains([]string{"y", "yes"}, strings.ToLower(strings.TrimSpace(line)))
}

// daemonSets are egressd's.
func (c *cluster) daemonSets(ctx context.Context) ([]daemonSet, error) {
	data, err := c.call(ctx, nil, "get", "daemonsets", "--namespace", c.namespace, "--selector", selector, "-o", "json")
	if err != nil {
		return nil, err
	}
	var list struct {
		Items []daemonSet `json:"items"`
	}
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("read kubectl's answer: %w", err)
	}
	return list.Items, nil
}

// unload puts pods that unload in the place of the daemons.
func (c *cluster) unload(ctx context.Context, d daemonSet) error {
	if err := d.unloading(); err != nil {
		return err
	}
	text, err := json.Marshal(d)
	if err != nil {
		return err
	}
	if _, err := c.call(ctx, bytes.NewReader(text), "replace", "--namespace", c.namespace, "-f", "-"); err != nil {
		return fmt.Errorf("change DaemonSet %s: %w", d.name(), err)
	}
	return nil
}

// notUnloaded says on which nodes egressd may still be.
func (c *cluster) notUnloaded(ctx context.Context, err error) error {
	data, lerr := c.call(ctx, nil, "get", "pods", "--namespace", c.namespace, "--selector", selector,
		"-o", `jsonpath={range .items[?(@.status.phase!="Running")]}{.spec.nodeName}{"\t"}{.metadata.name}{"\n"}{end}`)
	for line := range strings.Lines(string(data)) {
		node, pod, _ := strings.Cut(strings.TrimSpace(line), "\t")
		fmt.Fprintf(c.stderr, "node %s: egressd may still be in its kernel; see: kubectl logs --namespace %s %s --container unload\n", quote.Line(node), c.namespace, quote.Line(pod))
	}
	return errors.Join(fmt.Errorf("not all nodes are done, and nothing was deleted; mend that and call this again: %w", err), lerr)
}

// remove deletes what was installed, but for what is a Helm release's.
func (c *cluster) remove(ctx context.Context, sets []daemonSet) error {
	for _, d := range sets {
		if r := d.release(); r != "" {
			fmt.Fprintf(c.stdout, "now remove it from the cluster: helm uninstall %s --namespace %s\n", quote.Line(r), c.namespace)
			return nil
		}
	}
	for _, args := range [][]string{
		{"daemonsets,services,configmaps,serviceaccounts", "--namespace", c.namespace, "--selector", selector},
		{"leases", "--namespace", c.namespace, "--field-selector", "metadata.name=egressd-status"},
		{"roles,rolebindings", "--all-namespaces", "--selector", selector},
		{"clusterroles,clusterrolebindings", "--selector", selector},
		// The one that the manifests made; another one has not the label.
		{"namespaces", "--selector", selector, "--wait=false"},
	} {
		said, err := c.call(ctx, nil, slices.Concat([]string{"delete"}, args, []string{"--ignore-not-found"})...)
		if err != nil {
			return fmt.Errorf("egressd is in no kernel any more, but not all of it is deleted: %w", err)
		}
		_, _ = c.stdout.Write(said)
	}
	return nil
}
