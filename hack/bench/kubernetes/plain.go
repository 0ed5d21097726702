// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// plain is a node whose informers LIST and then WATCH, as client-go's did before lists
// were streamed: the same objects as egressd's, by the same encodings. It keeps none.
type plain struct {
	lists []cache.ListerWatcher
	open  atomic.Int64 // of them that have not been read
	done  chan struct{}
}

// lister asks for lists in the old way.
type lister struct{ cache.ListerWatcher }

// IsWatchListSemanticsUnSupported is for the reflector.
func (lister) IsWatchListSemanticsUnSupported() bool { return true }

// newPlain makes the informers of a node.
func newPlain(config *rest.Config, name string) (*plain, error) {
	config.QPS, config.Burst = 20, 60 // as egressd has it
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	proto := rest.CopyConfig(config)
	proto.ContentType, proto.AcceptContentTypes = runtime.ContentTypeProtobuf, runtime.ContentTypeProtobuf+","+runtime.ContentTypeJSON
	typed, err := kubernetes.NewForConfigAndClient(proto, client)
	if err != nil {
		return nil, err
	}
	custom, err := dynamic.NewForConfigAndClient(config, client)
	if err != nil {
		return nil, err
	}
	only, err := metadata.NewForConfigAndClient(config, client)
	if err != nil {
		return nil, err
	}
	p := &plain{done: make(chan struct{})}
	one := func(name string) fields.Selector { return fields.OneTermEqualSelector("metadata.name", name) }
	core := typed.CoreV1().RESTClient()
	for _, k := range []struct {
		client              rest.Interface
		resource, namespace string
		only                fields.Selector
	}{
		{core, "services", "", fields.Everything()},
		{typed.DiscoveryV1().RESTClient(), "endpointslices", "", fields.Everything()},
		{core, "namespaces", "", fields.Everything()},
		{core, "configmaps", "istio-system", one("istio")},
		{core, "configmaps", "kube-system", one("kubeadm-config")},
		{core, "nodes", "", one(name)},
		{typed.NetworkingV1().RESTClient(), "servicecidrs", "", fields.Everything()},
		{core, "pods", "", fields.OneTermEqualSelector("spec.nodeName", name)},
	} {
		p.add(cache.NewListWatchFromClient(k.client, k.resource, k.namespace, k.only))
	}
	definitions := only.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	p.add(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o meta.ListOptions) (runtime.Object, error) { return definitions.List(ctx, o) },
		WatchFuncWithContext: func(ctx context.Context, o meta.ListOptions) (watch.Interface, error) {
			return definitions.Watch(ctx, o)
		},
	})
	for group, resources := range map[string][]string{
		"networking.istio.io":       {"serviceentries", "virtualservices", "gateways", "destinationrules", "sidecars", "workloadentries"},
		"security.istio.io":         {"authorizationpolicies"},
		"gateway.networking.k8s.io": {"httproutes", "gateways", "gatewayclasses", "referencegrants", "grpcroutes"},
	} {
		for _, r := range resources {
			version := "v1"
			if r == "referencegrants" {
				version = "v1beta1"
			}
			of := custom.Resource(schema.GroupVersionResource{Group: group, Version: version, Resource: r})
			p.add(&cache.ListWatch{
				ListWithContextFunc:  func(ctx context.Context, o meta.ListOptions) (runtime.Object, error) { return of.List(ctx, o) },
				WatchFuncWithContext: func(ctx context.Context, o meta.ListOptions) (watch.Interface, error) { return of.Watch(ctx, o) },
			})
		}
	}
	return p, nil
}

func (p *plain) add(lw cache.ListerWatcher) {
	p.lists = append(p.lists, lister{lw})
	p.open.Add(1)
}

// Run is node's.
func (p *plain) Run(ctx context.Context) error {
	silent := klog.New(nil)
	var running sync.WaitGroup
	for _, lw := range p.lists {
		running.Go(func() {
			r := cache.NewReflectorWithOptions(lw, nil, &forgetful{of: p}, cache.ReflectorOptions{Logger: &silent, Name: "plain"})
			r.RunWithContext(klog.NewContext(ctx, silent))
		})
	}
	running.Wait()
	return nil
}

// Await is node's.
func (p *plain) Await(ctx context.Context) error {
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// forgetful is a reflector's store that keeps nothing.
type forgetful struct {
	of   *plain
	once sync.Once
}

func (f *forgetful) Add(any) error    { return nil }
func (f *forgetful) Update(any) error { return nil }
func (f *forgetful) Delete(any) error { return nil }
func (f *forgetful) Resync() error    { return nil }

// Replace notes that a kind was read.
func (f *forgetful) Replace([]any, string) error {
	f.once.Do(func() {
		if f.of.open.Add(-1) == 0 {
			close(f.of.done)
		}
	})
	return nil
}

// restartWait bounds how long nodes may take to start.
const restartWait = 30 * time.Minute
