// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"context"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gateway "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/apis/v1alpha2"
	"sigs.k8s.io/gateway-api/apis/v1alpha3"
	"sigs.k8s.io/gateway-api/conformance"
	"sigs.k8s.io/gateway-api/conformance/utils/config"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/pkg/features"

	"github.com/egressd/egressd/internal/kubetest"
	"github.com/egressd/egressd/internal/testenv"
)

func TestConformance(t *testing.T) {
	testenv.RequireRoot(t)
	testenv.RequireCgroup2(t)
	testenv.RequireBPF(t)
	network(t)
	k := kubetest.Start(t, kubetest.Options{Flags: []string{"--disable-admission-plugins", "ServiceAccount"}})
	k.InstallIstio(t)
	if err := kubetest.Install(k.TryKubectl, kinds); err != nil {
		t.Fatal(err)
	}
	k.Apply(t, `{apiVersion: v1, kind: Namespace, metadata: {name: egressd-system}}`)
	k.Apply(t, `{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: `+class+`}, spec: {controllerName: egressd.dev/gateway}}`)
	cfg := k.Config()
	scheme := client.Options{}
	objects, err := client.New(cfg, scheme)
	if err != nil {
		t.Fatal(err)
	}
	for _, add := range []func() error{
		func() error { return gateway.Install(objects.Scheme()) },
		func() error { return v1alpha2.Install(objects.Scheme()) },
		func() error { return v1alpha3.Install(objects.Scheme()) },
		func() error { return apiextensions.AddToScheme(objects.Scheme()) },
	} {
		if err := add(); err != nil {
			t.Fatal(err)
		}
	}
	clients, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &cluster{
		t: t, ctx: ctx, client: clients, objects: objects, kubeconfig: reachable(t, k),
		pods: map[string]*machine{}, services: map[string]bool{}, gateways: map[string]*gatewayNode{},
	}
	c.kubelet()
	c.serve("", "", "")
	done := make(chan struct{})
	go func() { defer close(done); c.work() }()
	t.Cleanup(func() {
		cancel()
		<-done
		for _, n := range c.gateways {
			n.end()
		}
		for _, p := range c.pods {
			p.end()
		}
	})

	conformance.RunConformanceWithOptions(t, suite.ConformanceOptions{
		ConfigurableOptions: suite.ConfigurableOptions{
			GatewayClassName: class, SupportedFeatures: c.claimed(), RunTest: os.Getenv("EGRESSD_CONFORMANCE_TEST"),
			TimeoutConfig: patient(), CleanupTestResources: true, AllowCRDsMismatch: true,
			Debug: os.Getenv("EGRESSD_CONFORMANCE_TEST") != "", DisableParallelTests: true,
		},
		Client: objects, ClientOptions: scheme, Clientset: clients, RestConfig: cfg, ManifestFS: []fs.FS{&conformance.Manifests},
	})
}

// claimed are the features that the class's status has: the suite reads them by itself
// only when it runs all tests.
func (c *cluster) claimed() (out []features.FeatureName) {
	await(c.t, "feature in the status of the GatewayClass", func() bool {
		var o gateway.GatewayClass
		if err := c.objects.Get(c.ctx, client.ObjectKey{Name: class}, &o); err != nil {
			c.t.Fatal(err)
		}
		for _, f := range o.Status.SupportedFeatures {
			out = append(out, features.FeatureName(f.Name))
		}
		return len(out) > 0
	})
	return out
}

// kinds are the Gateway API's of the experimental channel, which has the field retry.
func kinds() (out []string, err error) {
	standard, err := kubetest.GatewayAPIKinds()
	for _, f := range standard {
		if !strings.Contains(f, "_vap_") { // it is for clusters of the other channel
			out = append(out, strings.Replace(f, "/standard/", "/experimental/", 1))
		}
	}
	return out, err
}

// patient are the suite's times, with more for the API server of a busy machine. What
// an implementation has to keep is as it is.
func patient() config.TimeoutConfig {
	c := config.DefaultTimeoutConfig()
	for _, d := range []*time.Duration{&c.CreateTimeout, &c.DeleteTimeout, &c.GetTimeout} {
		*d = time.Minute
	}
	return c
}

// reachable is a kubeconfig by which nodes reach the API server, which is on loopback.
func reachable(t *testing.T, k *kubetest.Cluster) string {
	t.Helper()
	u, err := url.Parse(k.URL())
	if err != nil {
		t.Fatal(err)
	}
	forward(t, net.JoinHostPort(bridgeIP, u.Port()), func() string { return u.Host })
	c, err := clientcmd.LoadFromFile(k.Kubeconfig(kubetest.Admin))
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range c.Clusters {
		one.Server, one.TLSServerName = "https://"+net.JoinHostPort(bridgeIP, u.Port()), u.Hostname()
	}
	out := filepath.Join(os.Getenv(inside), "kubeconfig")
	if err := clientcmd.WriteToFile(*c, out); err != nil {
		t.Fatal(err)
	}
	return out
}
