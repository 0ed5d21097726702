// SPDX-License-Identifier: Apache-2.0

package kubestatus

import (
	"cmp"
	"context"
	"slices"
	"sync"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/tools/cache"
)

// server is a pod of egressd's own: its labels are those of the gateways that it is, as
// its --gateway-selector says, and its addresses are its node's, which it listens at.
type server struct {
	key, node string
	labels    labels.Set
	addresses []string
}

// servers watches the pods of egressd's own namespace. Pods elsewhere do not count:
// whoever may make one would say where a Gateway is reached.
type servers struct {
	informer cache.SharedIndexInformer
	end      context.CancelFunc
	running  sync.WaitGroup
}

// watchServers begins to watch; stop ends it.
func watchServers(c dynamic.Interface, namespace string, changed func()) *servers {
	s := &servers{informer: dynamicinformer.NewFilteredDynamicInformer(c, podsResource, namespace, 0, cache.Indexers{}, nil).Informer()}
	_ = s.informer.SetTransform(slimPod) // it does not run yet
	_, _ = s.informer.AddEventHandler(anyChange(changed))
	var ctx context.Context
	ctx, s.end = context.WithCancel(context.Background())
	s.running.Go(func() { s.informer.RunWithContext(ctx) })
	return s
}

func (s *servers) stop() {
	s.end()
	s.running.Wait()
}

func (s *servers) synced() bool { return s.informer.HasSynced() }

// slimPod keeps of a pod what is used here.
func slimPod(o any) (any, error) {
	u, ok := o.(*unstructured.Unstructured)
	if !ok {
		return o, nil
	}
	out := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Pod"}}
	out.SetNamespace(u.GetNamespace())
	out.SetName(u.GetName())
	out.SetUID(u.GetUID())
	out.SetResourceVersion(u.GetResourceVersion())
	out.SetLabels(u.GetLabels())
	out.SetDeletionTimestamp(u.GetDeletionTimestamp())
	for _, path := range [][]string{{"spec", "nodeName"}, {"spec", "hostNetwork"}, {"status", "conditions"}, {"status", "hostIPs"}} {
		if v, ok, _ := unstructured.NestedFieldNoCopy(u.Object, path...); ok {
			_ = unstructured.SetNestedField(out.Object, runtime.DeepCopyJSONValue(v), path...) // there is nothing in its way
		}
	}
	return out, nil
}

// all are the pods that serve visitors, sorted by their nodes.
func (s *servers) all() (out []server) {
	for _, p := range typed[core.Pod](s.informer.GetStore().List()) {
		ready := slices.ContainsFunc(p.Status.Conditions, func(c core.PodCondition) bool {
			return c.Type == core.PodReady && c.Status == core.ConditionTrue
		})
		if !ready || p.DeletionTimestamp != nil || !p.Spec.HostNetwork {
			continue
		}
		one := server{key: p.Name, node: p.Spec.NodeName, labels: p.Labels}
		for _, ip := range p.Status.HostIPs {
			one.addresses = append(one.addresses, ip.IP)
		}
		out = append(out, one)
	}
	slices.SortFunc(out, func(a, b server) int { return cmp.Or(cmp.Compare(a.node, b.node), cmp.Compare(a.key, b.key)) })
	return out
}

// serving are the addresses of the nodes that have all of some labels, each once.
func serving(all []server, want map[string]string) (out []string) {
	of := labels.SelectorFromSet(want)
	for _, s := range all {
		if !of.Matches(s.labels) {
			continue
		}
		for _, a := range s.addresses {
			if !slices.Contains(out, a) {
				out = append(out, a)
			}
		}
	}
	return out
}
