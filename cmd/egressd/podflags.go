// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/egressd/egressd/agent"
	"github.com/egressd/egressd/agent/workload"
)

// podFlags say that pods are what is captured.
type podFlags struct {
	pods   bool
	system []string
}

func (f *podFlags) register(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.pods, "pods", false, "capture the pods of a Kubernetes node, wherever its kubelet has their cgroups, and nothing else; what no Workload describes may reach nothing")
	cmd.Flags().StringSliceVar(&f.system, "system-namespaces", []string{"kube-system", "egressd-system"}, "with --pods and --kubernetes, namespaces whose pods are free until a Workload describes them, and in mode off unless a label says something else")
}

// set makes pods what o captures; others says that cgroups or units were named.
func (f *podFlags) set(o *agent.Options, others bool) error {
	if !f.pods {
		return nil
	}
	if others {
		return usageError{errors.New("--pods captures the pods and nothing else: leave --cgroup and --unit out")}
	}
	o.Workload = "unknown-pod"
	o.Pods = &workload.PodOptions{SystemNamespaces: f.system}
	return nil
}
