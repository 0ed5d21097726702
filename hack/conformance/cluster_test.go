// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// workers is the node of the pods.
const workers = "workers"

// every is how often the cluster looks at its objects.
const every = 200 * time.Millisecond

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no %s after a minute", what)
		}
	}
}

// cluster is what a cluster's controllers and kubelets do.
type cluster struct {
	t          *testing.T
	ctx        context.Context
	client     kubernetes.Interface
	objects    client.Client
	kubeconfig string
	pods       map[string]*machine                 // by namespace/name
	logs       sync.Map                            // of pods, by namespace/name
	services   map[string]bool                     // by UID
	leads      atomic.Pointer[map[string][]string] // by portKey
	gateways   map[string]*gatewayNode             // by UID
	names      []string                            // of the nodes that there were
}

// work looks after pods and Services until the test ends.
func (c *cluster) work() {
	for c.ctx.Err() == nil {
		c.deployments()
		c.endpoints()
		c.addresses()
		c.nodes()
		select {
		case <-c.ctx.Done():
		case <-time.After(every):
		}
	}
}

// deployments starts the pods of Deployments.
func (c *cluster) deployments() {
	all, err := c.client.AppsV1().Deployments("").List(c.ctx, meta.ListOptions{})
	if err != nil {
		return
	}
	for i := range all.Items {
		d := &all.Items[i]
		if strings.Contains(d.Spec.Template.Spec.Containers[0].Image, "coredns") {
			continue // for UDPRoutes
		}
		for n := range *d.Spec.Replicas {
			name := fmt.Sprintf("%s-7d4b9c-%05d", d.Name, n) // of a ReplicaSet's form, which tests take apart
			if c.pods[d.Namespace+"/"+name] == nil {
				c.pod(d, name)
			}
		}
	}
}

// pod starts a pod, once the Secrets are there that it mounts.
func (c *cluster) pod(d *apps.Deployment, name string) {
	spec := d.Spec.Template.Spec.DeepCopy()
	container := spec.Containers[0]
	env := []string{"POD_NAME=" + name, "NAMESPACE=" + d.Namespace}
	mounts := map[string]string{}
	for _, v := range spec.Volumes {
		if v.Secret == nil {
			continue
		}
		secret, err := c.client.CoreV1().Secrets(d.Namespace).Get(c.ctx, v.Secret.SecretName, meta.GetOptions{})
		if err != nil {
			return
		}
		dir := filepath.Join(os.Getenv(inside), d.Namespace, name, v.Name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			c.t.Error(err)
		}
		for _, item := range v.Secret.Items {
			if err := os.WriteFile(filepath.Join(dir, item.Path), secret.Data[item.Key], 0o600); err != nil {
				c.t.Error(err)
			}
		}
		for _, m := range container.VolumeMounts {
			if m.Name == v.Name {
				mounts[m.MountPath] = dir
			}
		}
	}
	for _, e := range container.Env {
		if e.ValueFrom == nil {
			value := e.Value
			for from, to := range mounts {
				value = strings.ReplaceAll(value, from, to)
			}
			env = append(env, e.Name+"="+value)
		}
	}
	m := start(c.t, d.Namespace+"-"+name, env, filepath.Join(os.Getenv(inside), "echo"))
	c.pods[d.Namespace+"/"+name] = m
	c.logs.Store(d.Namespace+"/"+name, m.log)
	c.ready(&core.Pod{ObjectMeta: meta.ObjectMeta{Namespace: d.Namespace, Name: name, Labels: d.Spec.Template.Labels},
		Spec: core.PodSpec{Containers: []core.Container{{Name: container.Name, Image: container.Image}}}}, workers, m.ip)
}

// kubelet makes the node of the pods, and serves their logs: those of copies of requests
// are read.
func (c *cluster) kubelet() {
	logged := http.NewServeMux()
	logged.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", func(w http.ResponseWriter, r *http.Request) {
		if m, ok := c.logs.Load(r.PathValue("namespace") + "/" + r.PathValue("pod")); ok {
			m.(*journal).ServeHTTP(w, r)
		}
	})
	ln, err := net.Listen("tcp", net.JoinHostPort(bridgeIP, "10250"))
	if err != nil {
		c.t.Fatal(err)
	}
	// The API server looks at no kubelet's certificate where it has no CA for it.
	server := httptest.NewUnstartedServer(logged)
	_ = server.Listener.Close() // another one takes its place
	server.Listener = ln
	server.StartTLS()
	c.t.Cleanup(server.Close)
	n, err := c.client.CoreV1().Nodes().Create(c.ctx, &core.Node{ObjectMeta: meta.ObjectMeta{Name: workers}}, meta.CreateOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	n.Status.Addresses = []core.NodeAddress{{Type: core.NodeInternalIP, Address: bridgeIP}}
	n.Status.DaemonEndpoints.KubeletEndpoint.Port = 10250
	if _, err := c.client.CoreV1().Nodes().UpdateStatus(c.ctx, n, meta.UpdateOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

// ready makes a pod that is ready.
func (c *cluster) ready(p *core.Pod, node, ip string) {
	p.Spec.NodeName = node
	if len(p.Spec.Containers) == 0 {
		p.Spec.Containers = []core.Container{{Name: "main", Image: "localhost/test:1"}}
	}
	p, err := c.client.CoreV1().Pods(p.Namespace).Create(c.ctx, p, meta.CreateOptions{})
	if err != nil {
		c.t.Error(err)
		return
	}
	p.Status = core.PodStatus{
		Phase: core.PodRunning, PodIP: ip, PodIPs: []core.PodIP{{IP: ip}}, HostIP: ip, HostIPs: []core.HostIP{{IP: ip}},
		Conditions: []core.PodCondition{{Type: core.PodReady, Status: core.ConditionTrue}},
	}
	if _, err := c.client.CoreV1().Pods(p.Namespace).UpdateStatus(c.ctx, p, meta.UpdateOptions{}); err != nil {
		c.t.Error(err)
	}
}

// endpoints makes the EndpointSlices of Services, and serves their addresses.
func (c *cluster) endpoints() {
	all, err := c.client.CoreV1().Services("").List(c.ctx, meta.ListOptions{})
	if err != nil {
		return
	}
	for i := range all.Items {
		s := &all.Items[i]
		if c.services[string(s.UID)] || s.Namespace == "default" {
			continue
		}
		if len(s.Spec.Selector) > 0 && !c.slice(s) {
			continue
		}
		c.services[string(s.UID)] = true
		if s.Spec.ClusterIP == core.ClusterIPNone || s.Spec.ClusterIP == "" {
			continue
		}
		run(c.t, "ip", "addr", "add", s.Spec.ClusterIP+"/32", "dev", bridge)
		for _, p := range s.Spec.Ports {
			if p.Protocol == core.ProtocolTCP {
				forward(c.t, net.JoinHostPort(s.Spec.ClusterIP, strconv.Itoa(int(p.Port))), func() string { return c.endpoint(portKey(s.Namespace, s.Name, p.Name)) })
			}
		}
	}
}

// slice makes a Service's EndpointSlice; false: its pods are not all there.
func (c *cluster) slice(s *core.Service) bool {
	pods, err := c.client.CoreV1().Pods(s.Namespace).List(c.ctx, meta.ListOptions{LabelSelector: meta.FormatLabelSelector(&meta.LabelSelector{MatchLabels: s.Spec.Selector})})
	if err != nil || len(pods.Items) == 0 {
		return false
	}
	yes := true
	out := &discovery.EndpointSlice{
		ObjectMeta:  meta.ObjectMeta{Namespace: s.Namespace, GenerateName: s.Name + "-", Labels: map[string]string{discovery.LabelServiceName: s.Name}},
		AddressType: discovery.AddressTypeIPv4,
	}
	for _, p := range pods.Items {
		if p.Status.PodIP == "" {
			return false
		}
		out.Endpoints = append(out.Endpoints, discovery.Endpoint{Addresses: []string{p.Status.PodIP}, Conditions: discovery.EndpointConditions{Ready: &yes}})
	}
	for _, p := range s.Spec.Ports {
		port := int32(p.TargetPort.IntValue())
		out.Ports = append(out.Ports, discovery.EndpointPort{Name: &p.Name, Port: &port, Protocol: &p.Protocol, AppProtocol: p.AppProtocol})
	}
	if _, err := c.client.DiscoveryV1().EndpointSlices(s.Namespace).Create(c.ctx, out, meta.CreateOptions{}); err != nil {
		c.t.Error(err)
	}
	return true
}

// addresses reads where the Services' ports lead.
func (c *cluster) addresses() {
	slices, err := c.client.DiscoveryV1().EndpointSlices("").List(c.ctx, meta.ListOptions{})
	if err != nil {
		return
	}
	now := map[string][]string{}
	for _, slice := range slices.Items {
		for _, p := range slice.Ports {
			key := portKey(slice.Namespace, slice.Labels[discovery.LabelServiceName], *p.Name)
			for _, e := range slice.Endpoints {
				now[key] = append(now[key], net.JoinHostPort(e.Addresses[0], strconv.Itoa(int(*p.Port))))
			}
		}
	}
	c.leads.Store(&now)
}

func portKey(namespace, service, port string) string { return namespace + "/" + service + "/" + port }

// endpoint is one of a Service's port, as kube-proxy would choose it.
func (c *cluster) endpoint(key string) string {
	now := c.leads.Load()
	if now == nil || len((*now)[key]) == 0 {
		return ""
	}
	all := (*now)[key]
	return all[rand.IntN(len(all))]
}
