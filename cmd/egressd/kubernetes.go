// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/egressd/egressd/agent"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/source/kube"
)

// kubernetesFlags are those of a node of a Kubernetes cluster.
type kubernetesFlags struct {
	on         bool
	kubeconfig string
	node       string
}

func (f *kubernetesFlags) register(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.Lookup("mode").Usage += "; off, with --kubernetes: only pods that a label says something else of are under policy"
	fs.BoolVar(&f.on, "kubernetes", false, "take the policy from the API server of a Kubernetes cluster, beside --config, and capture this node's pods alone")
	fs.StringVar(&f.kubeconfig, "kubeconfig", "", "how the API server is reached (default: as the service account of egressd's pod)")
	fs.StringVar(&f.node, "node-name", "", "this node's name in the cluster (default: $NODE_NAME, then the host's name)")
}

// mode takes --mode off, which is for pods alone: egressd's own stays enforce.
func (f *kubernetesFlags) mode(text string) (pods policy.Mode, own string, err error) {
	if !f.on {
		if f.kubeconfig != "" || f.node != "" {
			return 0, text, usageError{errors.New("--kubeconfig and --node-name are for --kubernetes")}
		}
		return 0, text, nil
	}
	pods, err = parseMode(text, policy.Enforce, policy.Audit, policy.Off)
	if pods == policy.Off {
		return pods, policy.Enforce.String(), err
	}
	return pods, text, err
}

// options fills in what the flags say: pods is the mode of pods, and system are the
// namespaces whose pods are in mode off.
func (f *kubernetesFlags) options(o *agent.Options, pods policy.Mode, system []string) error {
	if !f.on {
		return nil
	}
	config, err := kube.Config(f.kubeconfig, "egressd/"+version)
	if err != nil {
		return fmt.Errorf("--kubernetes: the API server cannot be reached: %w", err)
	}
	node := cmp.Or(f.node, os.Getenv("NODE_NAME"))
	if node == "" {
		if node, err = os.Hostname(); err != nil {
			return fmt.Errorf("--node-name: %w", err)
		}
		node = strings.ToLower(node) // as the kubelet does
	}
	o.KubernetesNamespace = ownNamespace(namespaceFile)
	o.Kubernetes = &kube.Options{Config: config, Node: node, Mode: pods, SystemNamespaces: system, Spread: kube.DefaultSpread}
	return nil
}

// namespaceFile is where a pod reads which namespace it is in.
const namespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

// ownNamespace is egressd's own namespace; outside of a pod it is the one that it is
// installed in by default.
func ownNamespace(file string) string {
	data, err := os.ReadFile(file)
	if name := strings.TrimSpace(string(data)); err == nil && name != "" {
		return name
	}
	return "egressd-system"
}
