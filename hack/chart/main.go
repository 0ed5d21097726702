// SPDX-License-Identifier: Apache-2.0

// Command chart writes deploy/kubernetes from the Helm chart in deploy/helm: the
// plain manifests are the chart with its default values. It needs no helm and no
// cluster.
package main

import (
	"bytes"
	"cmp"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	"sigs.k8s.io/yaml"
)

// namespace is where the plain manifests put egressd.
const namespace = "egressd-system"

func main() {
	top := flag.String("top", ".", "the repository's `DIRECTORY`")
	write := flag.Bool("write", false, "write the manifests; without it they are compared")
	flag.Parse()
	if err := run(*top, *write); err != nil {
		fmt.Fprintln(os.Stderr, "chart:", err)
		os.Exit(1)
	}
}

// run writes the manifests, or says which are not what the chart makes.
func run(top string, write bool) error {
	if err := copies(top, write); err != nil {
		return err
	}
	all, err := manifests(filepath.Join(top, "deploy/helm/egressd"))
	if err != nil {
		return err
	}
	var errs []error
	for name, text := range all {
		errs = append(errs, put(filepath.Join(top, "deploy/kubernetes", name), text, write))
	}
	return errors.Join(errs...)
}

// put writes a file, or says that it is not as it should be.
func put(path string, text []byte, write bool) error {
	if write {
		return os.WriteFile(path, text, 0o644)
	}
	if there, err := os.ReadFile(path); err != nil || !bytes.Equal(there, text) {
		return fmt.Errorf("%s is not what the chart makes of it; write it with: make manifests", path)
	}
	return nil
}

// copies puts into the chart what is outside of it and what it can install: a chart
// reads no other files than its own.
func copies(top string, write bool) error {
	var errs []error
	for _, path := range []string{"prometheus/egressd.rules.yaml", "grafana/egressd.json"} {
		text, err := os.ReadFile(filepath.Join(top, "deploy", path))
		if err != nil {
			return err
		}
		errs = append(errs, put(filepath.Join(top, "deploy/helm/egressd/files", filepath.Base(path)), text, write))
	}
	return errors.Join(errs...)
}

// manifests are the files of deploy/kubernetes that are made from the chart.
func manifests(chart string) (map[string][]byte, error) {
	install, err := render(chart, map[string]any{"namespace": map[string]any{"create": true}})
	if err != nil {
		return nil, err
	}
	gateway, err := render(chart, map[string]any{"gateway": map[string]any{
		"enabled": true, "class": map[string]any{"create": true}, "selector": gatewayLabels,
	}})
	if err != nil {
		return nil, err
	}
	remove, err := render(chart, map[string]any{"unload": true})
	if err != nil {
		return nil, err
	}
	return map[string][]byte{
		"egressd.yaml": document(`Everything of egressd on Kubernetes, made from deploy/helm/egressd by "make manifests".
docs/KUBERNETES.md says how to install, operate and remove it:
  kubectl apply -f egressd.yaml`, install),
		"gateway.yaml": document(`The way in: egressd's pods with listeners for Gateways, and the GatewayClass egressd, made
from deploy/helm/egressd by "make manifests". What --gateway-selector has is which Gateways
they serve: of Istio's those with istio: ingressgateway, of the Gateway API's infra/edge.
Apply it after egressd.yaml; egressd.yaml once more takes the listeners away:
  kubectl apply -f gateway.yaml`, only(gateway, "DaemonSet", "GatewayClass")),
		"uninstall.yaml": document(`What takes egressd out of the kernel of every node, made from deploy/helm/egressd by
"make manifests": its pods take the places of the daemon's. "kubectl egress uninstall"
does these steps as well:
  kubectl apply -f uninstall.yaml
  kubectl -n egressd-system rollout status daemonset/egressd
  kubectl delete -f egressd.yaml`, only(remove, "DaemonSet")),
	}, nil
}

// gatewayLabels are those of the Gateways that deploy/kubernetes/gateway.yaml serves.
var gatewayLabels = map[string]any{
	"istio":                                  "ingressgateway",
	"gateway.networking.k8s.io/gateway-name": "edge",
	"egressd.dev/gateway-namespace":          "infra",
}

// only are the objects of some kinds.
func only(objects []object, kinds ...string) []object {
	return slices.DeleteFunc(objects, func(o object) bool { return !slices.Contains(kinds, o.kind) })
}

// object is one rendered object.
type object struct {
	kind, name, namespace string
	text                  string
}

// order is that in which objects need each other.
var order = []string{"Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "ConfigMap", "Service"}

// rank is the place of a kind in order; what is not there comes last.
func rank(kind string) int {
	if i := slices.Index(order, kind); i >= 0 {
		return i
	}
	return len(order)
}

// render makes the chart's objects as "helm template" does, in order.
func render(chart string, values map[string]any) ([]object, error) {
	c, err := loader.LoadDir(chart)
	if err != nil {
		return nil, err
	}
	// What helm says of the release would only be in the way of kubectl.
	all, err := util.ToRenderValues(c, values, common.ReleaseOptions{Name: "egressd", Namespace: namespace, Revision: 1, IsInstall: true}, common.DefaultCapabilities)
	if err != nil {
		return nil, err
	}
	files, err := engine.Render(c, all)
	if err != nil {
		return nil, err
	}
	var out []object
	for name, text := range files {
		if filepath.Ext(name) != ".yaml" {
			continue
		}
		for part := range strings.SplitSeq("\n"+text, "\n---\n") {
			o, err := parse(part)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			if o.kind != "" {
				out = append(out, o)
			}
		}
	}
	slices.SortFunc(out, func(a, b object) int {
		return cmp.Or(cmp.Compare(rank(a.kind), rank(b.kind)), cmp.Compare(a.kind, b.kind), cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.name, b.name))
	})
	return out, nil
}

// parse reads what an object is called. The zero object: there is none.
func parse(text string) (object, error) {
	var head struct {
		Kind     string `json:"kind"`
		Metadata struct {
			Name      string `json:"name"`
			Namespace string `json:"namespace"`
		} `json:"metadata"`
	}
	if err := yaml.Unmarshal([]byte(text), &head); err != nil {
		return object{}, err
	}
	return object{head.Kind, head.Metadata.Name, head.Metadata.Namespace, strings.TrimSpace(text)}, nil
}

// document is a file of objects with a comment at its head.
func document(head string, objects []object) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# SPDX-License-Identifier: Apache-2.0\n#\n")
	for line := range strings.Lines(head) {
		fmt.Fprintf(&b, "# %s", line)
	}
	b.WriteString("\n")
	for i, o := range objects {
		if i > 0 {
			b.WriteString("---\n")
		}
		// Helm's own mark would make kubectl's objects look like a release's.
		b.WriteString(strings.ReplaceAll(o.text, "app.kubernetes.io/managed-by: Helm", "app.kubernetes.io/managed-by: kubectl") + "\n")
	}
	return b.Bytes()
}
