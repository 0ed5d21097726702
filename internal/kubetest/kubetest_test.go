// SPDX-License-Identifier: Apache-2.0

package kubetest

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"golang.org/x/sys/unix"
)

var shared Shared

func TestMain(m *testing.M) { os.Exit(shared.Main(m)) }

// TestAccess: Admin may do everything, others what RBAC gives them, and a
// kubeconfig is as good as a configuration.
func TestAccess(t *testing.T) {
	c := shared.Cluster(t)
	ns := c.Namespace(t, map[string]string{"a": "b"})
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig(Nobody))
	if err != nil {
		t.Fatal(err)
	}
	nobody, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	account, _ := c.ServiceAccount(t, ns, "reader")
	reader, err := kubernetes.NewForConfig(account)
	if err != nil {
		t.Fatal(err)
	}
	list := func(client kubernetes.Interface) error {
		_, err := client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{})
		return err
	}
	if err := list(c.Client(t)); err != nil {
		t.Errorf("the admin may not list pods: %v", err)
	}
	if err := list(nobody); !apierrors.IsForbidden(err) {
		t.Errorf("nobody lists pods: %v", err)
	}
	if err := list(reader); !apierrors.IsForbidden(err) {
		t.Errorf("the service account lists pods: %v", err)
	}
	c.Kubectl(t, "create", "role", "-n", ns, "reader", "--verb=list", "--resource=pods")
	c.Kubectl(t, "create", "rolebinding", "-n", ns, "reader", "--role=reader", "--serviceaccount="+ns+":reader")
	eventually(t, func() error { return list(reader) })
}

// TestPod: a pod is what a kubelet would have made of it.
func TestPod(t *testing.T) {
	c := shared.Cluster(t)
	ns := c.Namespace(t, nil)
	c.Pod(t, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "p"}}, "10.244.1.5", "fd00::5")
	found, err := c.Client(t).CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{FieldSelector: "spec.nodeName=node1,status.phase=Running"})
	if err != nil || len(found.Items) != 1 {
		t.Fatalf("%d pods run on node1: %v", len(found.Items), err)
	}
	if p := found.Items[0]; p.Status.PodIP != "10.244.1.5" || len(p.Status.PodIPs) != 2 || p.Spec.ServiceAccountName != "default" {
		t.Errorf("the pod is %+v with the service account %q", p.Status, p.Spec.ServiceAccountName)
	}
	c.DeletePod(t, ns, "p")
	if _, err := c.Client(t).CoreV1().Pods(ns).Get(t.Context(), "p", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the deleted pod: %v", err)
	}
}

const entry = `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: e, namespace: NAMESPACE}
spec: {hosts: [api.example.com], resolution: RESOLUTION, ports: [{number: 443, name: tls, protocol: TLS}]}
`

// TestKinds: the kinds of Istio and of the Gateway API are served with their
// validation.
func TestKinds(t *testing.T) {
	c := Start(t, Options{})
	ns := c.Namespace(t, nil)
	text := strings.ReplaceAll(entry, "NAMESPACE", ns)
	if _, err := c.TryKubectl(strings.ReplaceAll(text, "RESOLUTION", "DNS"), "apply", "-f", "-"); err == nil {
		t.Error("a cluster without Istio's kinds takes a ServiceEntry")
	}
	c.InstallIstio(t)
	c.InstallGatewayAPI(t)
	c.Apply(t, strings.ReplaceAll(text, "RESOLUTION", "DNS"))
	if _, err := c.TryKubectl(strings.ReplaceAll(text, "RESOLUTION", "BOGUS"), "apply", "-f", "-"); err == nil || !strings.Contains(err.Error(), "Unsupported value") {
		t.Errorf("a wrong value: %v; want that the schema refuses it", err)
	}
	if got := c.Kubectl(t, "get", "gateways.gateway.networking.k8s.io,httproutes", "-A", "-o", "name"); got != "" {
		t.Errorf("kinds of the Gateway API: %q", got)
	}
}

// TestAPIAway: the API server is refused, silent and back, with what it stored
// and under the same address.
func TestAPIAway(t *testing.T) {
	c := Start(t, Options{})
	ns := c.Namespace(t, nil)
	url := c.URL()
	c.KillAPI()
	if err := c.ready(); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("the killed API server: %v; want a refused connection", err)
	}
	if err := c.StartAPI(); err != nil {
		t.Fatal(err)
	}
	if c.URL() != url {
		t.Errorf("it moved from %s to %s", url, c.URL())
	}
	client := c.Client(t)
	if _, err := client.CoreV1().Namespaces().Get(t.Context(), ns, metav1.GetOptions{}); err != nil {
		t.Errorf("what was stored: %v", err)
	}
	if err := c.StartAPI(); err == nil {
		t.Error("it starts twice")
	}
	resume, err := c.PauseAPI()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := client.CoreV1().Namespaces().Get(ctx, ns, metav1.GetOptions{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the paused API server: %v; want no answer", err)
	}
	resume()
	eventually(t, c.ready)
}

// TestStartSaysWhy: the error of a start that fails has what the program said.
func TestStartSaysWhy(t *testing.T) {
	c, err := New(Options{Flags: []string{"--no-such-flag"}})
	if err == nil {
		c.Close()
		t.Fatal("it started")
	}
	if !strings.Contains(err.Error(), "unknown flag: --no-such-flag") {
		t.Errorf("the error is %v", err)
	}
}

// TestHelperDies is no test: TestEndsWithItsUser runs it in a process of its own.
func TestHelperDies(t *testing.T) {
	dir := os.Getenv("KUBETEST_DIES")
	if dir == "" {
		return
	}
	c := shared.Cluster(t)
	pids := []byte(strings.Join([]string{c.dir, pidOf(c.etcd), pidOf(c.api)}, " "))
	if err := os.WriteFile(filepath.Join(dir, "new"), pids, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, "pids")); err != nil {
		t.Fatal(err)
	}
	select {}
}

// TestEndsWithItsUser: a test that is killed takes the programs along.
func TestEndsWithItsUser(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run=^TestHelperDies$")
	cmd.Env = append(os.Environ(), "KUBETEST_DIES="+dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var text []byte
	eventually(t, func() (err error) { text, err = os.ReadFile(filepath.Join(dir, "pids")); return err })
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	words := strings.Fields(string(text))
	defer os.RemoveAll(words[0])
	for _, pid := range words[1:] {
		eventually(t, func() error {
			// A zombie has ended, whoever reaps it.
			status, err := os.ReadFile("/proc/" + pid + "/status")
			if err == nil && !strings.Contains(string(status), "State:\tZ") {
				return errors.New("process " + pid + " lives")
			}
			return nil
		})
	}
}
