// SPDX-License-Identifier: Apache-2.0

package kubestatus

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
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

// gatewayObjects says what there is to say in objects of the Gateway API.
type gatewayObjects struct {
	o        statusOptions
	prober   *prober
	writer   *writer
	ctx      context.Context
	end      context.CancelFunc
	running  sync.WaitGroup
	watched  map[string]*watched // by resource
	services *names
	spaces   *names
	servers  *servers
	// changed says that something is to be computed anew, said by what findings
	// it was last, and at when.
	changed atomic.Bool
	said    string
	at      time.Time
}

// watched are the objects of a kind.
type watched struct {
	at schema.GroupVersionResource
	cache.SharedIndexInformer
}

func newGateways(o statusOptions, p *prober, w *writer) *gatewayObjects {
	g := &gatewayObjects{o: o, prober: p, writer: w, watched: map[string]*watched{}}
	g.ctx, g.end = context.WithCancel(context.Background())
	return g
}

func (g *gatewayObjects) stop() {
	g.end()
	g.running.Wait()
	for _, n := range []*names{g.services, g.spaces} {
		if n != nil {
			n.stop()
		}
	}
	if g.servers != nil {
		g.servers.stop()
	}
}

// discover begins to watch the kinds that the cluster has.
func (g *gatewayObjects) discover(ctx context.Context) {
	for _, k := range gatewayKinds {
		if g.watched[k.resource] != nil {
			continue
		}
		at, ok := g.prober.served(ctx, gateway.GroupName, k.resource, k.versions...)
		if !ok {
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
		g.watched[k.resource] = &watched{at, i}
		g.running.Go(func() { i.RunWithContext(g.ctx) })
	}
}

// forget forgets the objects that are not there any more.
func (g *gatewayObjects) forget() {
	for _, i := range g.watched {
		g.writer.keep(i.at, func(namespace, name string) bool {
			_, ok, _ := i.GetStore().GetByKey(keyOf(namespace, name))
			return ok
		})
	}
}

func (g *gatewayObjects) change() { g.changed.Store(true) }

// sync has the writer write the statuses.
func (g *gatewayObjects) sync(ctx context.Context, findings []istio.Finding) {
	for _, i := range g.watched {
		if !i.HasSynced() {
			return
		}
	}
	of, said := gatewayFindings(findings)
	if !g.changed.Load() && said == g.said && time.Since(g.at) < secretsEvery || !g.ready() {
		return
	}
	g.changed.Store(false)
	g.said, g.at = said, time.Now()
	g.write(gwstatus.Compute(g.objects(ctx, of)))
}

// gatewayFindings are those of Gateways and routes, and their text.
func gatewayFindings(all []istio.Finding) (of map[gwstatus.ObjectKey][]istio.Finding, said string) {
	kinds := map[string]bool{gwstatus.GatewayKind: true}
	for _, k := range routeKinds {
		kinds[k.kind] = true
	}
	of = map[gwstatus.ObjectKey][]istio.Finding{}
	var text strings.Builder
	for i := range all {
		if n, ok := nameOf(&all[i]); ok && kinds[n.kind] {
			at := gwstatus.ObjectKey{Kind: n.kind, NamespacedName: types.NamespacedName{Namespace: n.namespace, Name: n.name}}
			of[at] = append(of[at], all[i])
			text.WriteString(all[i].String() + "\n")
		}
	}
	return of, text.String()
}

// ready says whether all is known. Services, Namespaces and egressd's own pods are
// watched when there are Gateways of ours, or may be.
func (g *gatewayObjects) ready() bool {
	if g.services == nil && g.answers() {
		g.services = watchNames(g.o.names, servicesResource, g.change)
		g.spaces = watchNames(g.o.names, namespacesResource, g.change)
		g.servers = watchServers(g.o.objects, g.o.namespace, g.change)
	}
	return g.services == nil || g.services.synced() && g.spaces.synced() && g.servers.synced()
}

// answers says whether there is a class of ours, or a Gateway that needs none.
func (g *gatewayObjects) answers() bool {
	for _, c := range typed[gateway.GatewayClass](g.list(classes)) {
		if c.Spec.ControllerName == ControllerName {
			return true
		}
	}
	return slices.ContainsFunc(typed[gateway.Gateway](g.list(gateways)), func(o *gateway.Gateway) bool {
		return o.Spec.GatewayClassName == gwstatus.DefaultClass
	})
}

func (g *gatewayObjects) list(resource string) []any {
	if i := g.watched[resource]; i != nil {
		return i.GetStore().List()
	}
	return nil
}

// objects are what statuses are made of.
func (g *gatewayObjects) objects(ctx context.Context, findings map[gwstatus.ObjectKey][]istio.Finding) gwstatus.Observed {
	o := gwstatus.Observed{
		Controller: ControllerName, Findings: findings, Namespaces: map[string]map[string]string{},
		Classes: typed[gateway.GatewayClass](g.list(classes)), Gateways: typed[gateway.Gateway](g.list(gateways)),
		Grants: typed[gateway.ReferenceGrant](g.list(grants)),
		Service: func(n types.NamespacedName) bool {
			return g.services != nil && g.services.get(n.Namespace, n.Name) != nil
		},
		Certificate: func(n types.NamespacedName) error { return g.certificate(ctx, n) },
	}
	if g.servers != nil {
		all := g.servers.all()
		o.Serving = func(labels map[string]string) []string { return serving(all, labels) }
	}
	for _, k := range routeKinds {
		o.Routes = append(o.Routes, k.typed(g.list(k.resource))...)
	}
	if g.spaces != nil {
		for _, n := range g.spaces.all() {
			o.Namespaces[n.Name] = n.Labels
		}
	}
	return o
}

// certificate is why a Secret is no certificate with its key.
func (g *gatewayObjects) certificate(ctx context.Context, n types.NamespacedName) error {
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
func (g *gatewayObjects) write(s gwstatus.Statuses) {
	for name, want := range s.Classes {
		g.say(classes, types.NamespacedName{Name: name}, want, func(status map[string]any, now meta.Time) { editClass(status, want, now) })
	}
	for name, want := range s.Gateways {
		g.say(gateways, name, want, func(status map[string]any, now meta.Time) { editGateway(status, want, now) })
	}
	for _, k := range routeKinds {
		for _, o := range g.list(k.resource) {
			if u, ok := o.(*unstructured.Unstructured); ok {
				name := types.NamespacedName{Namespace: u.GetNamespace(), Name: u.GetName()}
				want := s.Routes[gwstatus.ObjectKey{Kind: k.kind, NamespacedName: name}]
				g.say(k.resource, name, want, func(status map[string]any, now meta.Time) { editRoute(status, want, now) })
			}
		}
	}
}

// say has a status written if it is another one by what is known.
func (g *gatewayObjects) say(resource string, n types.NamespacedName, want any, change func(status map[string]any, now meta.Time)) {
	e, of := statusEdit(change), g.watched[resource]
	o, ok, _ := of.GetStore().GetByKey(keyOf(n.Namespace, n.Name))
	if u, is := o.(*unstructured.Unstructured); ok && is && e(u.DeepCopy(), meta.Now()) {
		digest, _ := json.Marshal(want)
		g.writer.insist(target{of.at, n.Namespace, n.Name}, fmt.Sprintf("%s %d %s", u.GetUID(), u.GetGeneration(), digest), e)
	}
}
