// SPDX-License-Identifier: Apache-2.0

package kubestatus

import (
	"context"
	"log/slog"
	"sync"

	"k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/tools/cache"
)

// oursIndex finds the objects in whose status egressd has written.
const oursIndex = "ours"

// prober finds out which kinds the API server has.
type prober struct {
	names metadata.Interface
	log   *slog.Logger
	// warned are the kinds that may not be read, which was said.
	warned map[string]bool
}

// served says which version of a kind the API server has, if it has one.
func (p *prober) served(ctx context.Context, group, resource string, versions ...string) (schema.GroupVersionResource, bool) {
	for _, v := range versions {
		at := schema.GroupVersionResource{Group: group, Version: v, Resource: resource}
		call, cancel := context.WithTimeout(ctx, callTimeout)
		_, err := p.names.Resource(at).List(call, meta.ListOptions{Limit: 1, ResourceVersion: "0"})
		cancel()
		if err == nil {
			return at, true
		}
		if name := at.GroupResource().String(); errors.IsForbidden(err) && !p.warned[name] {
			p.warned[name] = true
			p.log.Warn("objects of a kind may not be read to write their statuses, so they say nothing of egressd; traffic is not concerned. Is egressd's ClusterRole up to date?",
				"kind", name, "error", err)
		}
	}
	return schema.GroupVersionResource{}, false
}

// names watches the metadata of the objects of a kind.
type names struct {
	at       schema.GroupVersionResource
	informer cache.SharedIndexInformer
	end      context.CancelFunc
	running  sync.WaitGroup
}

// watchNames begins to watch; stop ends it.
func watchNames(c metadata.Interface, at schema.GroupVersionResource, changed ...func()) *names {
	n := &names{at: at}
	n.informer = metadatainformer.NewFilteredMetadataInformer(c, at, meta.NamespaceAll, 0, cache.Indexers{oursIndex: ours}, nil).Informer()
	_ = n.informer.SetTransform(slim) // it does not run yet
	for _, f := range changed {
		_, _ = n.informer.AddEventHandler(anyChange(f))
	}
	ctx, end := context.WithCancel(context.Background())
	n.end = end
	n.running.Go(func() { n.informer.RunWithContext(ctx) })
	return n
}

func (n *names) stop() {
	n.end()
	n.running.Wait()
}

func (n *names) synced() bool { return n.informer.HasSynced() }

// get returns an object, or nil.
func (n *names) get(namespace, name string) *meta.PartialObjectMetadata {
	o, _, _ := n.informer.GetStore().GetByKey(keyOf(namespace, name))
	out, _ := o.(*meta.PartialObjectMetadata)
	return out
}

// keyOf is the key of an object in the store of an informer.
func keyOf(namespace, name string) string {
	if namespace == "" {
		return name
	}
	return namespace + "/" + name
}

// all returns all objects.
func (n *names) all() []*meta.PartialObjectMetadata { return metadataOf(n.informer.GetStore().List()) }

// ours returns the objects in whose status egressd has written.
func (n *names) ours() []*meta.PartialObjectMetadata {
	list, _ := n.informer.GetIndexer().ByIndex(oursIndex, oursIndex)
	return metadataOf(list)
}

func metadataOf(list []any) []*meta.PartialObjectMetadata {
	out := make([]*meta.PartialObjectMetadata, 0, len(list))
	for _, o := range list {
		if m, ok := o.(*meta.PartialObjectMetadata); ok {
			out = append(out, m)
		}
	}
	return out
}

// slim keeps of an object's metadata what is used here.
func slim(o any) (any, error) {
	m, ok := o.(*meta.PartialObjectMetadata)
	if !ok {
		return o, nil
	}
	kept := &meta.PartialObjectMetadata{TypeMeta: m.TypeMeta, ObjectMeta: meta.ObjectMeta{
		Namespace: m.Namespace, Name: m.Name, UID: m.UID, Generation: m.Generation, ResourceVersion: m.ResourceVersion, Labels: m.Labels,
	}}
	for _, f := range m.ManagedFields {
		if f.Manager == Manager && f.Subresource == "status" {
			kept.ManagedFields = []meta.ManagedFieldsEntry{{Manager: f.Manager, Subresource: f.Subresource}}
		}
	}
	return kept, nil
}

// ours is the index of the objects in whose status egressd has written.
func ours(o any) ([]string, error) {
	if m, ok := o.(*meta.PartialObjectMetadata); ok && len(m.ManagedFields) > 0 {
		return []string{oursIndex}, nil
	}
	return nil, nil
}

// anyChange calls f for every change.
func anyChange(f func()) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{AddFunc: func(any) { f() }, UpdateFunc: func(any, any) { f() }, DeleteFunc: func(any) { f() }}
}
