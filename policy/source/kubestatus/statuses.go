// SPDX-License-Identifier: Apache-2.0

package kubestatus

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/metadata"

	"github.com/egressd/egressd/policy/istio"
)

// Times of the one that writes statuses.
const (
	// syncEvery is how often it looks what there is to say.
	syncEvery = time.Second
	// kindsEvery is how often it looks whether the cluster has a kind now.
	kindsEvery = 30 * time.Second
)

type statusOptions struct {
	objects dynamic.Interface
	// namespace is egressd's own.
	namespace string
	names     metadata.Interface
	findings  func() []istio.Finding
	refused   func(about core.ObjectReference, text string)
	log       *slog.Logger
	// every is syncEvery, if it is 0.
	every time.Duration
}

// statuses writes statuses, while this daemon is the one that does.
type statuses struct {
	o     statusOptions
	count statusCounts
}

func newStatuses(o statusOptions) *statuses {
	if o.every == 0 {
		o.every = syncEvery
	}
	return &statuses{o: o}
}

// run writes statuses until ctx is done. What it knows it learns anew each time:
// another one may have written since.
func (s *statuses) run(ctx context.Context) {
	w := newWriter(s.o.objects, &s.count, s.o.log)
	probe := &prober{names: s.o.names, log: s.o.log, warned: map[string]bool{}}
	objects := newIstioObjects(s.o, probe, w)
	gateways := newGateways(s.o, probe, w)
	var parts sync.WaitGroup
	parts.Go(func() { w.run(ctx) })
	defer func() {
		w.queue.ShutDown()
		parts.Wait()
		objects.stop()
		gateways.stop()
	}()
	tick := time.NewTicker(s.o.every)
	defer tick.Stop()
	var looked time.Time
	for ctx.Err() == nil {
		if time.Since(looked) >= kindsEvery {
			objects.discover(ctx)
			gateways.discover(ctx)
			objects.forget()
			gateways.forget()
			looked = time.Now()
		}
		findings := s.o.findings()
		objects.sync(findings)
		gateways.sync(ctx, findings)
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// istioObjects says what there is to say in Istio's objects.
type istioObjects struct {
	o       statusOptions
	prober  *prober
	writer  *writer
	watched map[string]*names // by kind
	// changed says that objects have, since there was something to say of them by
	// last.
	changed atomic.Bool
	last    []istio.Finding
	// said are the errors that have an Event already.
	said map[target]string
}

func newIstioObjects(o statusOptions, p *prober, w *writer) *istioObjects {
	return &istioObjects{o: o, prober: p, writer: w, watched: map[string]*names{}, said: map[target]string{}}
}

// discover begins to watch the kinds that the cluster has.
func (i *istioObjects) discover(ctx context.Context) {
	for _, k := range istioKinds {
		if i.watched[k.kind] != nil {
			continue
		}
		if at, ok := i.prober.served(ctx, k.group, k.resource, istioVersions...); ok {
			i.watched[k.kind] = watchNames(i.o.names, at, func() { i.changed.Store(true) })
		}
	}
}

// forget forgets the objects that are not there any more.
func (i *istioObjects) forget() {
	for _, n := range i.watched {
		there := func(namespace, name string) bool { return n.get(namespace, name) != nil }
		i.writer.keep(n.at, there)
		for t := range i.said {
			if t.at == n.at && !there(t.namespace, t.name) {
				delete(i.said, t)
			}
		}
	}
}

func (i *istioObjects) stop() {
	for _, n := range i.watched {
		n.stop()
	}
}

// sync has the writer write what is to be said by findings, and remove what is
// not true any more.
func (i *istioObjects) sync(findings []istio.Finding) {
	if !i.changed.Swap(false) && slices.Equal(findings, i.last) {
		return
	}
	i.last = findings
	for _, n := range i.watched {
		if !n.synced() {
			i.changed.Store(true) // there will be more to say
		}
	}
	all := verdicts(findings)
	for _, k := range istioKinds {
		watched := i.watched[k.kind]
		if watched == nil || !watched.synced() {
			continue
		}
		for _, o := range watched.ours() {
			if all[name{k.kind, o.Namespace, o.Name}] == nil {
				i.say(k, watched, o, nil)
			}
		}
	}
	for n, v := range all {
		watched := i.watched[n.kind]
		if watched == nil || !watched.synced() {
			continue
		}
		if o := watched.get(n.namespace, n.name); o != nil {
			i.say(kindOf(n.kind), watched, o, v)
		}
	}
}

func kindOf(name string) kind {
	for _, k := range istioKinds {
		if k.kind == name {
			return k
		}
	}
	return kind{}
}

// say has what there is to say of an object written; nil: nothing.
func (i *istioObjects) say(k kind, watched *names, o *meta.PartialObjectMetadata, v *verdict) {
	t := target{watched.at, o.Namespace, o.Name}
	digest := "" // however the object changes
	if v != nil {
		digest = fmt.Sprint(o.UID, o.Generation, v.text(), v.messages(nil))
	}
	i.writer.want(t, digest, v.edit)
	switch {
	case v == nil || len(v.errors) == 0:
		delete(i.said, t)
	case i.said[t] != v.text():
		i.said[t] = v.text()
		i.o.refused(core.ObjectReference{
			APIVersion: watched.at.GroupVersion().String(), Kind: k.kind, Namespace: o.Namespace, Name: o.Name, UID: o.UID,
		}, v.text())
	}
}
