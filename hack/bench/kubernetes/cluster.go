// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/egressd/egressd/internal/kubetest"
)

// size is how much a cluster has.
type size struct {
	entries, services, namespaces, pods, own int
	// home is in how many namespaces the pods of the measured node are.
	home int
}

// ownNode is the node that is measured; others are node-N.
const ownNode = "node-0"

// podsOfANode are those of the nodes that are not measured, and sliceEndpoints those that
// an EndpointSlice has.
const podsOfANode, sliceEndpoints = 10, 5

// makers is how many requests make objects at once.
const makers = 16

// cluster is an API server with objects.
type cluster struct {
	*kubetest.Cluster
	size    size
	config  *rest.Config // of an administrator
	client  kubernetes.Interface
	entries dynamic.NamespaceableResourceInterface
	// fewer are the EndpointSlices that have lost an endpoint.
	fewer map[int]bool
}

var entryResource = schema.GroupVersionResource{Group: "networking.istio.io", Version: "v1", Resource: "serviceentries"}

// startCluster starts an API server and gives it objects.
func startCluster(ctx context.Context, s size) (c *cluster, err error) {
	c = &cluster{size: s, fewer: map[int]bool{}}
	if c.Cluster, err = kubetest.New(kubetest.Options{}); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	for _, kinds := range []func() ([]string, error){kubetest.IstioKinds, kubetest.GatewayAPIKinds} {
		if err := kubetest.Install(c.TryKubectl, kinds); err != nil {
			return c, err
		}
	}
	c.config = c.Config()
	if c.client, err = kubernetes.NewForConfig(c.config); err != nil {
		return c, err
	}
	custom, err := dynamic.NewForConfig(c.config)
	if err != nil {
		return c, err
	}
	c.entries = custom.Resource(entryResource)
	start := time.Now()
	err = c.fill(ctx)
	fmt.Printf("the cluster has its objects after %v: %+v\n", time.Since(start).Round(time.Second), s)
	return c, err
}

// fill makes the objects.
func (c *cluster) fill(ctx context.Context) error {
	if err := each(c.size.namespaces, func(i int) error { return c.makeNamespace(ctx, i) }); err != nil {
		return err
	}
	if err := each(c.size.entries, func(i int) error {
		_, err := c.entries.Namespace(c.namespace(i)).Create(ctx, c.entry(i), meta.CreateOptions{})
		return err
	}); err != nil {
		return err
	}
	if err := each(c.size.services, func(i int) error { return c.makeService(ctx, i) }); err != nil {
		return err
	}
	return each(c.size.pods, func(i int) error { return c.makePod(ctx, i) })
}

// each calls do with 0 to n-1, several at once.
func each(n int, do func(i int) error) error {
	var running sync.WaitGroup
	var mu sync.Mutex
	var all error
	next := make(chan int)
	for range makers {
		running.Go(func() {
			for i := range next {
				if err := do(i); err != nil {
					mu.Lock()
					all = errors.Join(all, err)
					mu.Unlock()
				}
			}
		})
	}
	for i := range n {
		mu.Lock()
		failed := all != nil
		mu.Unlock()
		if failed {
			break
		}
		next <- i
	}
	close(next)
	running.Wait()
	return all
}

func (c *cluster) namespace(i int) string { return fmt.Sprintf("ns-%d", i%c.size.namespaces) }

func (c *cluster) makeNamespace(ctx context.Context, i int) error {
	ns := &core.Namespace{ObjectMeta: meta.ObjectMeta{Name: c.namespace(i), Labels: map[string]string{"egressd.dev/mode": "enforce", "team": fmt.Sprintf("team-%d", i%20)}}}
	if _, err := c.client.CoreV1().Namespaces().Create(ctx, ns, meta.CreateOptions{}); err != nil {
		return err
	}
	_, err := c.client.CoreV1().ServiceAccounts(ns.Name).Create(ctx, &core.ServiceAccount{ObjectMeta: meta.ObjectMeta{Name: "default"}}, meta.CreateOptions{})
	return err
}

func entryName(i int) string { return fmt.Sprintf("entry-%05d", i) }

// entry is a ServiceEntry: seven of ten have two hosts by DNS, two fixed endpoints, and
// one an address.
func (c *cluster) entry(i int) *unstructured.Unstructured {
	port := func(number int64, name, protocol string) map[string]any {
		return map[string]any{"number": number, "name": name, "protocol": protocol}
	}
	spec := map[string]any{
		"hosts":      []any{fmt.Sprintf("api-%d.example.com", i), fmt.Sprintf("cdn-%d.example.net", i)},
		"resolution": "DNS", "location": "MESH_EXTERNAL", "ports": []any{port(443, "tls", "TLS"), port(80, "http", "HTTP")},
	}
	switch {
	case i%10 == 9:
		spec = map[string]any{
			"hosts": []any{fmt.Sprintf("net-%d.example.org", i)}, "addresses": []any{address(i)},
			"resolution": "NONE", "ports": []any{port(dialPort, "tcp", "TCP")},
		}
	case i%10 > 6:
		spec["resolution"] = "STATIC"
		spec["endpoints"] = []any{map[string]any{"address": address(i)}}
	}
	u := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
		"metadata": map[string]any{
			"name": entryName(i), "namespace": c.namespace(i),
			"labels": map[string]any{"app.kubernetes.io/managed-by": "argocd", "team": fmt.Sprintf("team-%d", i%20)},
			// As kubectl apply and others leave behind.
			"annotations": map[string]any{"kubectl.kubernetes.io/last-applied-configuration": strings.Repeat("x", 400)},
		},
		"spec": spec,
	}}
	return u
}

// address is one that nobody has: the node reaches no internet.
func address(i int) string { return fmt.Sprintf("45.%d.%d.%d", i>>16&255, i>>8&255, i&255) }

func (c *cluster) makeService(ctx context.Context, i int) error {
	ns, name := c.namespace(i), fmt.Sprintf("service-%04d", i)
	labels := map[string]string{"app": name}
	s := &core.Service{
		ObjectMeta: meta.ObjectMeta{Name: name, Labels: labels},
		Spec:       core.ServiceSpec{Selector: labels, Ports: []core.ServicePort{{Name: "http", Port: 80}, {Name: "metrics", Port: 9090}}},
	}
	if _, err := c.client.CoreV1().Services(ns).Create(ctx, s, meta.CreateOptions{}); err != nil {
		return err
	}
	_, err := c.client.DiscoveryV1().EndpointSlices(ns).Create(ctx, c.slice(i, sliceEndpoints), meta.CreateOptions{})
	return err
}

// slice is an EndpointSlice, with n endpoints.
func (c *cluster) slice(i, n int) *discovery.EndpointSlice {
	name := fmt.Sprintf("service-%04d", i)
	ports := []discovery.EndpointPort{{Name: new("http"), Port: new(int32(8080))}, {Name: new("metrics"), Port: new(int32(9090))}}
	e := &discovery.EndpointSlice{
		ObjectMeta:  meta.ObjectMeta{Name: name + "-abcde", Namespace: c.namespace(i), Labels: map[string]string{discovery.LabelServiceName: name}},
		AddressType: discovery.AddressTypeIPv4, Ports: ports,
	}
	for k := range n {
		e.Endpoints = append(e.Endpoints, discovery.Endpoint{
			Addresses:  []string{fmt.Sprintf("10.%d.%d.%d", 128+i>>12, i>>4&255, i<<4&240+k+1)},
			Conditions: discovery.EndpointConditions{Ready: new(true)}, NodeName: new(fmt.Sprintf("node-%d", k+1)),
			TargetRef: &core.ObjectReference{Kind: "Pod", Namespace: e.Namespace, Name: fmt.Sprintf("%s-%d", name, k)},
		})
	}
	return e
}

// podNode is the node of a pod: the first are the measured node's.
func (c *cluster) podNode(i int) string {
	if i < c.size.own {
		return ownNode
	}
	return fmt.Sprintf("node-%d", 1+(i-c.size.own)/podsOfANode)
}

// podNamespace is the namespace of a pod.
func (c *cluster) podNamespace(i int) string {
	if i < c.size.own {
		return c.namespace(i % c.size.home)
	}
	return c.namespace(i)
}

func podName(i int) string { return fmt.Sprintf("pod-%05d", i) }

func (c *cluster) makePod(ctx context.Context, i int) error {
	p := &core.Pod{
		ObjectMeta: meta.ObjectMeta{Name: podName(i), Labels: map[string]string{
			"app": fmt.Sprintf("service-%04d", i%max(1, c.size.services)), "pod-template-hash": "5d4f8c7b9d", "version": "v1",
		}},
		Spec: core.PodSpec{NodeName: c.podNode(i), Containers: []core.Container{{
			Name: "main", Image: "registry.example.com/team/service:1.2.3",
			Env:   []core.EnvVar{{Name: "LOG_LEVEL", Value: "info"}, {Name: "DATABASE_URL", Value: "postgres://db.example.com:5432/orders"}},
			Ports: []core.ContainerPort{{ContainerPort: 8080}},
		}}},
	}
	_, err := c.client.CoreV1().Pods(c.podNamespace(i)).Create(ctx, p, meta.CreateOptions{})
	return err
}

// account is what the daemons of a DaemonSet log in as: one service account, to which
// Priority and Fairness applies, as it does not to an administrator.
func (c *cluster) account() (*rest.Config, error) {
	const objects = `
{apiVersion: v1, kind: Namespace, metadata: {name: egressd-system}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: egressd, namespace: egressd-system}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: egressd-read}
rules: [{apiGroups: ["*"], resources: ["*"], verbs: [get, list, watch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: egressd-read}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: egressd-read}
subjects: [{kind: ServiceAccount, namespace: egressd-system, name: egressd}]
`
	if _, err := c.TryKubectl(objects, "apply", "--server-side", "-f", "-"); err != nil {
		return nil, err
	}
	token, err := c.TryKubectl("", "create", "token", "--duration=4h", "-n", "egressd-system", "egressd")
	if err != nil {
		return nil, err
	}
	config := rest.CopyConfig(c.config)
	config.BearerToken, config.QPS = strings.TrimSpace(token), 0
	return config, nil
}
