// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"fmt"
	"net/http"

	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	kubenet "k8s.io/api/networking/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/flowcontrol"
)

// Requests per second to the API server, all together, and how many at once:
// at a start each kind is asked for once.
const (
	requestRate  = 20
	requestBurst = 60
)

// Config says how the API server is reached: by a kubeconfig, or, without one, as
// the service account of the pod that this runs in. agent names this program.
func Config(kubeconfig, agent string) (*rest.Config, error) {
	var c *rest.Config
	var err error
	if kubeconfig == "" {
		if c, err = rest.InClusterConfig(); err != nil {
			return nil, fmt.Errorf("%w; outside of a pod, name a --kubeconfig", err)
		}
	} else if c, err = clientcmd.BuildConfigFromFlags("", kubeconfig); err != nil {
		return nil, err
	}
	c.UserAgent = agent
	return c, nil
}

// clients speak to the API server: protobuf for the built-in kinds, JSON for others,
// which have nothing else.
type clients struct {
	server    string
	http      *http.Client // of them all
	core      rest.Interface
	discovery rest.Interface
	network   rest.Interface
	custom    rest.Interface
	metadata  metadata.Interface
}

func newClients(given *rest.Config, t *turns) (c clients, err error) {
	config := rest.CopyConfig(given)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return polite{next, t} })
	config.RateLimiter = flowcontrol.NewTokenBucketRateLimiter(requestRate, requestBurst)
	config.WarningHandler = rest.NoWarnings{}
	c.server = config.Host
	if c.http, err = rest.HTTPClientFor(config); err != nil {
		return c, err
	}
	if c.core, err = groupClient(config, c.http, core.SchemeGroupVersion, core.AddToScheme); err != nil {
		return c, err
	}
	if c.discovery, err = groupClient(config, c.http, discovery.SchemeGroupVersion, discovery.AddToScheme); err != nil {
		return c, err
	}
	if c.network, err = groupClient(config, c.http, kubenet.SchemeGroupVersion, kubenet.AddToScheme); err != nil {
		return c, err
	}
	if c.custom, err = customClient(config, c.http); err != nil {
		return c, err
	}
	c.metadata, err = metadata.NewForConfigAndClient(config, c.http)
	return c, err
}

// groupClient makes a client for the built-in kinds of a group.
func groupClient(config *rest.Config, client *http.Client, version schema.GroupVersion, add func(*runtime.Scheme) error) (rest.Interface, error) {
	scheme := runtime.NewScheme()
	if err := add(scheme); err != nil {
		return nil, err
	}
	config = rest.CopyConfig(config)
	config.GroupVersion = &version
	config.APIPath = "/apis"
	if version.Group == "" {
		config.APIPath = "/api"
	}
	config.ContentType = runtime.ContentTypeProtobuf
	config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	return rest.RESTClientForConfigAndClient(config, client)
}

// builtIn asks for the objects of a built-in kind: one, those of a node, or all.
func (c clients) builtIn(k kind, node string) *cache.ListWatch {
	only := fields.Everything()
	switch {
	case k.object != "":
		only = fields.OneTermEqualSelector("metadata.name", k.object)
	case k.name == podKind:
		only = fields.OneTermEqualSelector("spec.nodeName", node)
	}
	client := map[string]rest.Interface{"": c.core, discovery.GroupName: c.discovery, kubenet.GroupName: c.network}[k.group]
	return cache.NewListWatchFromClient(client, k.resource, k.namespace, only)
}

// defined asks for the objects of a kind that is defined.
func (c clients) defined(resource schema.GroupVersionResource) *cache.ListWatch {
	request := func(o meta.ListOptions) *rest.Request {
		return c.custom.Get().AbsPath("/apis", resource.Group, resource.Version, resource.Resource).SpecificallyVersionedParams(&o, meta.ParameterCodec, coreVersion)
	}
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o meta.ListOptions) (runtime.Object, error) {
			return request(o).Do(ctx).Get()
		},
		WatchFuncWithContext: func(ctx context.Context, o meta.ListOptions) (watch.Interface, error) {
			o.Watch = true
			return request(o).Watch(ctx)
		},
	}
}

// definitions asks for the metadata of the CustomResourceDefinitions: their schemas
// are a hundred times as long.
func (c clients) definitions() *cache.ListWatch {
	client := c.metadata.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o meta.ListOptions) (runtime.Object, error) { return client.List(ctx, o) },
		WatchFuncWithContext: func(ctx context.Context, o meta.ListOptions) (watch.Interface, error) {
			return client.Watch(ctx, o)
		},
	}
}
