// SPDX-License-Identifier: Apache-2.0

package kubetest

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// requestWait bounds a request of a test's.
const requestWait = 10 * time.Second

// Client is a client of Kubernetes's own kinds, as Admin.
func (c *Cluster) Client(t testing.TB) kubernetes.Interface {
	t.Helper()
	client, err := kubernetes.NewForConfig(c.Config())
	if err != nil {
		t.Fatal(err)
	}
	// Or its idle connections outlive the test.
	if http, ok := client.CoreV1().RESTClient().(interface{ CloseIdleConnections() }); ok {
		t.Cleanup(http.CloseIdleConnections)
	}
	return client
}

// Apply makes objects, or changes them, as "kubectl apply" does, and removes
// nothing.
func (c *Cluster) Apply(t testing.TB, yaml string) {
	t.Helper()
	if _, err := c.TryKubectl(yaml, "apply", "--server-side", "--force-conflicts", "-f", "-"); err != nil {
		t.Fatal(err)
	}
}

// Namespace makes a namespace of its own for a test, with the service account
// "default", which a controller makes elsewhere. Its objects stay until the
// cluster ends: nothing here would remove them.
func (c *Cluster) Namespace(t testing.TB, labels map[string]string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), requestWait)
	defer cancel()
	ns, err := c.Client(t).CoreV1().Namespaces().Create(ctx,
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-", Labels: labels}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.ensureServiceAccount(t, ns.Name, "default")
	return ns.Name
}

func (c *Cluster) ensureServiceAccount(t testing.TB, namespace, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), requestWait)
	defer cancel()
	_, err := c.Client(t).CoreV1().ServiceAccounts(namespace).Create(ctx,
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
}

// Pod makes a pod and says of it what a scheduler and a kubelet would: that it
// runs on the node that it names (node1 if none), with these addresses. What it
// does not say gets a value that will do: a container, its image.
func (c *Cluster) Pod(t testing.TB, pod *corev1.Pod, addrs ...string) *corev1.Pod {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), requestWait)
	defer cancel()
	pod = pod.DeepCopy()
	if pod.Spec.NodeName == "" {
		pod.Spec.NodeName = "node1"
	}
	if len(pod.Spec.Containers) == 0 {
		pod.Spec.Containers = []corev1.Container{{Name: "main", Image: "localhost/test:1"}}
	}
	pods := c.Client(t).CoreV1().Pods(pod.Namespace)
	pod, err := pods.Create(ctx, pod, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pod.Status.Phase = corev1.PodRunning
	for _, a := range addrs {
		pod.Status.PodIPs = append(pod.Status.PodIPs, corev1.PodIP{IP: a})
	}
	if len(addrs) > 0 {
		pod.Status.PodIP = addrs[0]
	}
	pod, err = pods.UpdateStatus(ctx, pod, metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return pod
}

// DeletePod removes a pod as a kubelet does when its containers have ended: at once.
func (c *Cluster) DeletePod(t testing.TB, namespace, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), requestWait)
	defer cancel()
	at := int64(0)
	if err := c.Client(t).CoreV1().Pods(namespace).Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: &at}); err != nil {
		t.Fatal(err)
	}
}
