// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/egressd/egressd/agent"
	"github.com/egressd/egressd/agent/report"
	"github.com/egressd/egressd/policy"
)

// podFilter name pods. A pod is a workload that is called "namespace/name".
type podFilter struct{ pod, namespace string }

func (p *podFilter) register(cmd *cobra.Command, pod, namespace string) {
	cmd.Flags().StringVar(&p.pod, "pod", "", pod)
	cmd.Flags().StringVarP(&p.namespace, "namespace", "n", "", namespace)
}

// workload is the pod that is named; "": none is.
func (p podFilter) workload() (string, error) {
	namespace, name, qualified := strings.Cut(p.pod, "/")
	switch {
	case p.pod == "":
		return "", nil
	case !qualified && p.namespace == "":
		namespace, name = policy.DefaultNamespace, p.pod
	case !qualified:
		namespace, name = p.namespace, p.pod
	case p.namespace != "" && p.namespace != namespace:
		return "", usageError{fmt.Errorf("--pod %s is not in --namespace %s: leave one of them out", p.pod, p.namespace)}
	}
	if namespace == "" || name == "" || strings.Contains(name, "/") {
		return "", usageError{fmt.Errorf("--pod is NAMESPACE/NAME, or NAME in --namespace (%s), not %q", policy.DefaultNamespace, p.pod)}
	}
	return namespace + "/" + name, nil
}

// orWorkload is the workload of one of --workload and --pod.
func (p podFilter) orWorkload(workload string) (string, error) {
	pod, err := p.workload()
	switch {
	case err != nil || pod == "" && p.namespace == "":
		return workload, err
	case pod == "":
		return "", usageError{errors.New("--namespace says where --pod is: name the pod")}
	case workload != "":
		return "", usageError{errors.New("--pod and --workload say the same: leave one of them out")}
	}
	return pod, nil
}

// listed is how many workloads status lists before it sums them up.
const listed = 20

// workloadRows are about the workloads: each of a few, or the sum of many.
func workloadRows(row func(k, format string, args ...any), all []agent.WorkloadStatus) {
	many := len(all) > listed
	sum := report.SumOf(all)
	if many {
		row("workloads", "%s (-o json lists them)", sum)
	}
	for i, w := range all {
		if many && i > 0 && !w.Share.Full { // the first is what no other one has
			continue
		}
		row("workload", "%s, mode %s, cgroup %s, %d of %d pending redirects", w.Name, w.Mode, w.Cgroup, w.Origins.Entries, w.Origins.Max)
		printShare(row, w.Share)
	}
}
