// SPDX-License-Identifier: Apache-2.0

package nodetest

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// every is how often Eventually asks.
const every = 50 * time.Millisecond

// clusterDNS is the DNS server of the cluster, with what it may do.
//
//go:embed dns.yaml
var clusterDNS string

func (n *Node) startDNS() error {
	if _, err := n.Kubectl(clusterDNS, "apply", "-f", "-"); err != nil {
		return err
	}
	_, err := n.Kubectl("", "-n", "kube-system", "rollout", "status", "deployment/dns", "--timeout=90s")
	return err
}

// Eventually asks until there is no error, and fails the test if that does not
// come within a time.
func Eventually(t testing.TB, within time.Duration, f func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(within); ; time.Sleep(every) {
		if err = f(); err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %s: %v", within, err)
		}
	}
}

// MustKubectl is Kubectl without input; the test fails when it does.
func (n *Node) MustKubectl(t testing.TB, args ...string) string {
	t.Helper()
	out, err := n.Kubectl("", args...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// Apply makes objects, or changes them.
func (n *Node) Apply(t testing.TB, yaml string) {
	t.Helper()
	if _, err := n.Kubectl(yaml, "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
}

// Namespace makes a namespace for the test, and removes it, with the pods in
// it, at its end. mode is the value of the label egressd.dev/mode; "": none. It
// has a ConfigMap "ca" with the authority of the little internet.
func (n *Node) Namespace(t testing.TB, mode string) string {
	t.Helper()
	name := strings.Trim(strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		}
		return '-'
	}, t.Name()), "-")
	label := ""
	if mode != "" {
		label = "labels: {egressd.dev/mode: \"" + mode + "\"}"
	}
	ca, err := os.ReadFile(n.World.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := n.Kubectl("", "delete", "namespace", name, "--timeout=90s"); err != nil {
			t.Error(err)
		}
	})
	n.Apply(t, fmt.Sprintf("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: %s\n  %s\n---\n"+
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: ca, namespace: %s}\ndata:\n  ca.pem: |\n    %s\n",
		name, label, name, strings.ReplaceAll(strings.TrimSpace(string(ca)), "\n", "\n    ")))
	// Pods are refused before a controller has made it.
	Eventually(t, 30*time.Second, func() error {
		_, err := n.Kubectl("", "-n", name, "get", "serviceaccount", "default")
		return err
	})
	return name
}

// Pod describes a pod of the tool's image.
type Pod struct {
	Namespace, Name string
	// Mode is the value of the label egressd.dev/mode; "": none.
	Mode string
	// Command are the arguments of the tool; default: pause.
	Command []string
	// Init are the arguments of the tool in an init container, if any.
	Init []string
	// HostNetwork: the pod has the node's network.
	HostNetwork bool
	// Once: it is not restarted when it ends.
	Once bool
	// Label is the value of the label "app"; default: Name.
	Label string
}

// YAML is the pod as an object.
func (p Pod) YAML() string {
	var b strings.Builder
	label, command, restart, dns := p.Label, p.Command, "Always", "ClusterFirst"
	if label == "" {
		label = p.Name
	}
	if len(command) == 0 {
		command = []string{"pause"}
	}
	if p.Once {
		restart = "Never"
	}
	if p.HostNetwork {
		dns = "ClusterFirstWithHostNet"
	}
	fmt.Fprintf(&b, "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: %s\n  namespace: %s\n  labels:\n    app: %s\n", p.Name, p.Namespace, label)
	if p.Mode != "" {
		fmt.Fprintf(&b, "    egressd.dev/mode: %q\n", p.Mode)
	}
	fmt.Fprintf(&b, "spec:\n  terminationGracePeriodSeconds: 1\n  restartPolicy: %s\n  hostNetwork: %t\n  dnsPolicy: %s\n"+
		"  volumes: [{name: ca, configMap: {name: ca}}]\n", restart, p.HostNetwork, dns)
	if len(p.Init) > 0 {
		fmt.Fprintf(&b, "  initContainers:\n%s", container("init", p.Init))
	}
	fmt.Fprintf(&b, "  containers:\n%s", container("main", command))
	return b.String()
}

func container(name string, command []string) string {
	args, _ := json.Marshal(command) // strings can be said in JSON, which YAML reads
	return fmt.Sprintf("  - name: %s\n    image: %s\n    imagePullPolicy: Never\n    args: %s\n"+
		"    env: [{name: SSL_CERT_FILE, value: /ca/ca.pem}]\n    volumeMounts: [{name: ca, mountPath: /ca}]\n",
		name, ToolImage, args)
}

// RunPod makes a pod, and waits until it is ready.
func (n *Node) RunPod(t testing.TB, p Pod) {
	t.Helper()
	n.Apply(t, p.YAML())
	n.WaitReady(t, p.Namespace, p.Name)
}

// WaitReady waits until pods are ready.
func (n *Node) WaitReady(t testing.TB, namespace string, pods ...string) {
	t.Helper()
	args := []string{"-n", namespace, "wait", "--for=condition=Ready", "--timeout=90s"}
	for _, p := range pods {
		args = append(args, "pod/"+p)
	}
	if _, err := n.Kubectl("", args...); err != nil {
		state, _ := n.Kubectl("", "-n", namespace, "describe", "pods") // the failure is what matters
		t.Fatalf("%v\n%s", err, state)
	}
}

// Finish makes a pod, waits until it has ended, and returns what it printed.
func (n *Node) Finish(t testing.TB, p Pod) string {
	t.Helper()
	p.Once = true
	n.Apply(t, p.YAML())
	n.WaitEnded(t, p.Namespace, p.Name)
	return n.MustKubectl(t, "-n", p.Namespace, "logs", p.Name)
}

// WaitEnded waits until a pod that is not restarted has ended.
func (n *Node) WaitEnded(t testing.TB, namespace, pod string) {
	t.Helper()
	Eventually(t, 90*time.Second, func() error {
		phase, err := n.Kubectl("", "-n", namespace, "get", "pod", pod, "-o", "jsonpath={.status.phase}")
		if err == nil && phase != "Succeeded" && phase != "Failed" {
			err = fmt.Errorf("the pod %s is %s", pod, phase)
		}
		return err
	})
}

// Tool runs the tool in a pod, and returns what it prints. The error is the
// tool's, or kubectl's.
func (n *Node) Tool(namespace, pod string, args ...string) (string, error) {
	out, err := n.Kubectl("", append([]string{"-n", namespace, "exec", pod, "-c", "main", "--", "/tool"}, args...)...)
	return strings.TrimSpace(out), err
}

// ErrNotDenied is what Denied says of a pod that got somewhere.
var ErrNotDenied = errors.New("it was not denied")

// Get asks for a URL from a pod; the error is nil if the answer is 200.
func (n *Node) Get(namespace, pod, url string) error {
	out, err := n.Tool(namespace, pod, "get", "-close", url)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(out, "200 OK\n") {
		return fmt.Errorf("%s says %q", url, out)
	}
	return nil
}

// Denied is nil if a pod does not get to a URL because somebody says no.
func (n *Node) Denied(namespace, pod, url string) error {
	out, err := n.Tool(namespace, pod, "get", "-close", url)
	switch {
	case err == nil && strings.HasPrefix(out, "403 "):
		return nil
	case err == nil:
		return fmt.Errorf("%w: %s: %q", ErrNotDenied, url, out)
	case !strings.Contains(err.Error(), "tool: Get "):
		return err // kubectl's
	case strings.Contains(err.Error(), "deadline exceeded"):
		return fmt.Errorf("nobody said no: %w", err)
	}
	return nil
}

// Container is the id of the main container of a pod.
func (n *Node) Container(t testing.TB, namespace, pod string) string {
	t.Helper()
	id := n.MustKubectl(t, "-n", namespace, "get", "pod", pod, "-o", `jsonpath={.status.containerStatuses[?(@.name=="main")].containerID}`)
	return strings.TrimPrefix(id, "containerd://")
}

// Interrupt ends the main container of a pod by SIGTERM, without the API server.
func (n *Node) Interrupt(t testing.TB, container string) {
	t.Helper()
	if _, err := n.Run("ctr", "-n", "k8s.io", "tasks", "kill", "-s", "SIGTERM", container); err != nil {
		t.Fatal(err)
	}
}
