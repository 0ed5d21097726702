// SPDX-License-Identifier: Apache-2.0

package kubestatus

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/tools/cache"
	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/egressd/egressd/policy/istio"
	"github.com/egressd/egressd/policy/source/kubestatus/internal/gwstatus"
)

// secretsEvery is how often Secrets are looked at that nobody watches here.
const secretsEvery = 30 * time.Second

// gateways says what there is to say in objects of the Gateway API.
type gateways struct {
	o        statusOptions
	prober   *prober
	writer   *writer
	ctx      context.Context
	end      context.CancelFunc
	running  sync.WaitGroup
	watched  map[schema.GroupVersionResource]cache.SharedIndexInformer
	services *names
	spaces   *names
	// changed says that something is to be computed anew, said by what findings
	// it was last, and at when.
	changed atomic.Bool
	said    string
	at      time.Time
}

func newGateways(o statusOptions, p *prober, w *writer) *gateways {
	g := &gateways{o: o, prober: p, writer: w, watched: map[schema.GroupVersionResource]cache.SharedIndexInformer{}}
	g.ctx, g.end = context.WithCancel(context.Background())
	return g
}

func (g *gateways) stop() {
	g.end()
	g.running.Wait()
	for _, n := range []*names{g.services, g.spaces} {
		if n != nil {
			n.stop()
		}
	}
}

// discover begins to watch the kinds that the cluster has.
func (g *gateways) discover(ctx context.Context) {
	for _, at := range []schema.GroupVersionResource{classesResource, gatewaysResource, routesResource, grantsResource} {
		if g.watched[at] != nil {
			continue
		}
		if _, ok := g.prober.served(ctx, at.Group, at.Resource, at.Version); !ok {
			continue
		}
		i := dynamicinformer.NewFilteredDynamicInformer(g.o.objects, at, meta.NamespaceAll, 0, cache.Indexers{}, nil).Informer()
		_ = i.SetTransform(func(o any) (any, error) { // it does not run yet
			if u, ok := o.(*unstructured.Unstructured); ok {
				u.SetManagedFields(nil)
			}
			return o, nil
		})
		_, _ = i.AddEventHandler(anyChange(g.change))
		g.watched[at] = i
		g.running.Go(func() { i.RunWithContext(g.ctx) })
	}
}

// forget forgets the objects that are not there any more.
func (g *gateways) forget() {
	for at, i := range g.watched {
		g.writer.keep(at, func(namespace, name string) bool {
			_, ok, _ := i.GetStore().GetByKey(keyOf(namespace, name))
			return ok
		})
	}
}

func (g *gateways) change() { g.changed.Store(true) }

// sync has the writer write the statuses.
func (g *gateways) sync(ctx context.Context, findings []istio.Finding) {
	for _, i := range g.watched {
		if !i.HasSynced() {
			return
		}
	}
	of := map[types.NamespacedName][]istio.Finding{}
	said := ""
	for i := range findings {
		if n, ok := nameOf(&findings[i]); ok && n.kind == "HTTPRoute" {
			at := types.NamespacedName{Namespace: n.namespace, Name: n.name}
			of[at] = append(of[at], findings[i])
			said += findings[i].String() + "\n"
		}
	}
	if !g.changed.Load() && said == g.said && time.Since(g.at) < secretsEvery || !g.ready() {
		return
	}
	g.changed.Store(false)
	g.said, g.at = said, time.Now()
	g.write(gwstatus.Compute(g.objects(ctx, of)))
}

// ready says whether all is known. Services and Namespaces are watched when there
// is a class of ours.
func (g *gateways) ready() bool {
	if g.services == nil && g.answers() {
		g.services = watchNames(g.o.names, servicesResource, g.change)
		g.spaces = watchNames(g.o.names, namespacesResource, g.change)
	}
	return g.services == nil || g.services.synced() && g.spaces.synced()
}

// answers says whether there is a class of ours.
func (g *gateways) answers() bool {
	for _, c := range typed[gateway.GatewayClass](g.list(classesResource)) {
		if c.Spec.ControllerName == ControllerName {
			return true
		}
	}
	return false
}

func (g *gateways) list(at schema.GroupVersionResource) []any {
	if i := g.watched[at]; i != nil {
		return i.GetStore().List()
	}
	return nil
}

// objects are what statuses are made of.
func (g *gateways) objects(ctx context.Context, findings map[types.NamespacedName][]istio.Finding) gwstatus.Objects {
	o := gwstatus.Objects{
		Controller: ControllerName, NotServed: g.o.notServed, Findings: findings, Namespaces: map[string]map[string]string{},
		Classes: typed[gateway.GatewayClass](g.list(classesResource)), Gateways: typed[gateway.Gateway](g.list(gatewaysResource)),
		Routes: typed[gateway.HTTPRoute](g.list(routesResource)), Grants: typed[gateway.ReferenceGrant](g.list(grantsResource)),
		Service: func(n types.NamespacedName) bool {
			return g.services != nil && g.services.get(n.Namespace, n.Name) != nil
		},
		Certificate: func(n types.NamespacedName) error { return g.certificate(ctx, n) },
	}
	if g.spaces != nil {
		for _, n := range g.spaces.all() {
			o.Namespaces[n.Name] = n.Labels
		}
	}
	return o
}

// typed converts objects; one that cannot be is of a newer Gateway API, and left
// out.
func typed[T any](list []any) []*T {
	var out []*T
	for _, o := range list {
		u, ok := o.(*unstructured.Unstructured)
		v := new(T)
		if ok && runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, v) == nil {
			out = append(out, v)
		}
	}
	return out
}

// certificate is why a Secret is no certificate with its key.
func (g *gateways) certificate(ctx context.Context, n types.NamespacedName) error {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	o, err := g.o.objects.Resource(secretsResource).Namespace(n.Namespace).Get(call, n.Name, meta.GetOptions{})
	if err != nil {
		return err
	}
	var pem [2][]byte
	for i, key := range []string{"tls.crt", "tls.key"} {
		text, ok, _ := unstructured.NestedString(o.Object, "data", key)
		if pem[i], err = base64.StdEncoding.DecodeString(text); err != nil || !ok {
			return fmt.Errorf("it has no %s", key)
		}
	}
	if _, err = tls.X509KeyPair(pem[0], pem[1]); err != nil {
		return fmt.Errorf("tls.crt and tls.key are no certificate and its key: %w", err)
	}
	return nil
}

// write has statuses written where they are others.
func (g *gateways) write(s gwstatus.Statuses) {
	for name, conditions := range s.Classes {
		g.say(classesResource, types.NamespacedName{Name: name}, conditions, func(status map[string]any, now meta.Time) {
			status["conditions"] = merge(status["conditions"], conditions, now)
		})
	}
	for name, want := range s.Gateways {
		g.say(gatewaysResource, name, want, func(status map[string]any, now meta.Time) { editGateway(status, want, now) })
	}
	for _, o := range g.list(routesResource) {
		if u, ok := o.(*unstructured.Unstructured); ok {
			name := types.NamespacedName{Namespace: u.GetNamespace(), Name: u.GetName()}
			want := s.Routes[name]
			g.say(routesResource, name, want, func(status map[string]any, now meta.Time) { editRoute(status, want, now) })
		}
	}
}

// say has a status written if it is another one by what is known.
func (g *gateways) say(at schema.GroupVersionResource, n types.NamespacedName, want any, change func(status map[string]any, now meta.Time)) {
	e := statusEdit(change)
	o, ok, _ := g.watched[at].GetStore().GetByKey(keyOf(n.Namespace, n.Name))
	if u, is := o.(*unstructured.Unstructured); ok && is && e(u.DeepCopy(), meta.Now()) {
		digest, _ := json.Marshal(want)
		g.writer.insist(target{at, n.Namespace, n.Name}, fmt.Sprintf("%s %d %s", u.GetUID(), u.GetGeneration(), digest), e)
	}
}
