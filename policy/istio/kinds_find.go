// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/egressd/egressd/policy/istio/internal/gwapi"
	"github.com/egressd/egressd/policy/istio/internal/model"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

func newKindTable() *kindTable {
	t := &kindTable{all: newKinds(), byName: map[string]*kind{}}
	for i := range t.all {
		t.byName[t.all[i].group+"/"+t.all[i].name] = &t.all[i]
	}
	return t
}

// of returns what is known of a kind.
func (t *kindTable) of(group, name string) (kind, bool) {
	if k := t.byName[group+"/"+name]; k != nil {
		return *k, true
	}
	if group == gwapi.Group {
		return kind{group: group, name: name, decode: decodeUnknownGateway(t.names(group))}, true
	}
	return kind{}, false
}

// names are the kinds of a group, in their order.
func (t *kindTable) names(group string) (out []string) {
	for _, k := range t.all {
		if k.group == group {
			out = append(out, k.name)
		}
	}
	slices.Sort(out)
	return out
}

// istioGroups are the groups of which all kinds are known.
var istioGroups = []string{model.NetworkingGroup, securityGroup, egressdGroup}

// testKind is the kind that explain/expect reads.
const testKind = "PolicyTest"

// find finds what to do with a document, and reports when nothing is done.
func (t *kindTable) find(n *strictyaml.Node, apiVersion, name string, p *strictyaml.Reporter) (kind, bool) {
	group, version, found := strings.Cut(apiVersion, "/")
	if !found {
		group, version = "", apiVersion
	}
	k, ok := t.of(group, name)
	if ok && (k.has == nil || k.has(n)) {
		if k.versions != nil && !slices.Contains(k.versions, version) {
			p.Errorf(n.At("apiVersion"), "apiVersion %s: version %q is not known; %s has %s",
				apiVersion, version, name, strings.Join(k.versions, ", "))
			return k, false
		}
		return k, true
	}
	if group == egressdGroup && name == testKind {
		p.Say(Note, n, "kind %s says what is expected of the policy, and is no part of it; \"egressd test\" runs it", name)
		return k, false
	}
	if slices.Contains(istioGroups, group) {
		p.Errorf(n.At("kind"), "kind %s is not known in %s%s", name, group, strictyaml.DidYouMean(name, t.names(group)))
		return k, false
	}
	// A kind of ours under a group that nobody uses for it would be lost.
	if g := t.istioGroup(name); g != "" && !strings.Contains(group, ".k8s.io") {
		p.Errorf(n.At("apiVersion"), "apiVersion %s: kind %s belongs to %s/v1", apiVersion, name, g)
		return k, false
	}
	if how := counterpart(group, name); how != "" {
		p.Warnf(n.At("kind"), "%s is not read: it opens nothing and closes nothing here. Write its counterpart: %s", name, how)
		return k, false
	}
	p.Say(Note, n, "kind %s of %s is not read by egressd, skipped", name, apiVersion)
	return k, false
}

// istioGroup is the group of Istio's that has a kind, or "".
func (t *kindTable) istioGroup(name string) string {
	for _, g := range []string{model.NetworkingGroup, securityGroup} {
		if t.byName[g+"/"+name] != nil {
			return g
		}
	}
	return ""
}

// groupHint says which apiVersion a kind of Istio's has.
func (t *kindTable) groupHint(kind string) string {
	if g := t.istioGroup(kind); g != "" {
		return fmt.Sprintf("; kind %s has apiVersion: %s/v1", kind, g)
	}
	return ""
}

// whole decodes a whole Kubernetes object for one of the loader's lists.
func whole[T any](into func(*loader) *[]decoded[T]) func(*object, *draft) {
	return func(o *object, d *draft) {
		v := new(T)
		if strictyaml.DecodeGo(o.root, v, "", &o.Reporter) {
			d.take = appendTo(into, o, v)
		}
	}
}

// spec decodes the spec of an object for one of the loader's lists.
func spec[T any, M interface {
	*T
	proto.Message
}](into func(*loader) *[]decoded[T]) func(*object, *draft) {
	return func(o *object, d *draft) {
		v := new(T)
		o.besideSpec(M(v))
		if strictyaml.DecodeProto(o.spec(), M(v), "spec", &o.Reporter) {
			d.take = appendTo(into, o, v)
		}
	}
}

func appendTo[T any](into func(*loader) *[]decoded[T], o *object, v *T) func(*loader) {
	return func(l *loader) {
		list := into(l)
		*list = append(*list, decoded[T]{o, v})
	}
}
