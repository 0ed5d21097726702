// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/egressd/egressd/policy"
)

// The API groups of what says to whom rules apply, besides Istio's own.
const (
	// egressdGroup has what Istio has no kind for.
	egressdGroup = "egressd.dev"
	// operatorGroup is that of the file that istioctl installs Istio from.
	operatorGroup = "install.istio.io"
)

// scopeKind knows the kinds that say to whom rules apply.
func scopeKind(group, name string) (kind, bool) {
	switch group + "/" + name {
	case networkingGroup + "/Sidecar":
		return kind{group, []string{"v1", "v1beta1", "v1alpha3"}, func(l *loader, o *object) { takeSpec(o, &l.sidecars) }}, true
	case securityGroup + "/AuthorizationPolicy":
		return kind{group, []string{"v1", "v1beta1"}, func(l *loader, o *object) { takeSpec(o, &l.authorizations) }}, true
	case egressdGroup + "/Workload":
		return kind{group, []string{"v1"}, (*loader).takeWorkload}, true
	case egressdGroup + "/MeshConfig":
		return kind{group, []string{"v1"}, (*loader).takeMeshConfig}, true
	case operatorGroup + "/" + operatorKind:
		return kind{group, []string{"v1alpha1"}, (*loader).takeOperator}, true
	case "/" + configMapKind:
		return kind{group, []string{"v1"}, (*loader).takeConfigMap}, true
	}
	return kind{}, false
}

// isRead says whether an object of a kind that scopeKind knows has something
// for egressd in it: most ConfigMaps have not.
func isRead(group, name string, n *node) bool {
	switch {
	case name == operatorKind && group == operatorGroup:
		return n.get("spec").field("meshConfig") != nil
	case name == configMapKind && group == "":
		return isMeshConfigMap(n)
	}
	return true
}

// takeSpec decodes the spec of an object of an Istio kind.
func takeSpec[T any, M interface {
	*T
	proto.Message
}](o *object, into *[]decoded[T]) {
	o.topLevel()
	v := new(T)
	if decodeProto(o.spec(), M(v), "spec", &o.place) {
		*into = append(*into, decoded[T]{o, v})
	}
}

// topLevel reports what stands beside the spec and is none of an object's
// fields: a misspelt "spec" would leave all of it out.
func (o *object) topLevel() {
	known := []string{"apiVersion", "kind", "metadata", "spec", "status"}
	for i := range o.root.fields {
		f := &o.root.fields[i]
		if !slices.Contains(known, f.key) {
			o.errorf(f.pos(), "unknown field %q in the object%s", f.key, didYouMean(f.key, known))
		}
	}
}

// oldest returns objects in order of precedence.
func oldest[T any](all []decoded[T]) []decoded[T] {
	slices.SortStableFunc(all, oldestFirst[T])
	return all
}

// objectOf finds the object that a part of the Config came from.
func (l *loader) objectOf(ref policy.Ref) *object {
	o := l.seen[ref.Kind+" "+ref.Namespace+"/"+ref.Name]
	if o == nil || o.file != ref.File {
		return nil
	}
	return o
}

// scope translates what says to whom rules apply.
func (l *loader) scope(cfg *policy.Config) {
	for _, d := range oldest(l.sidecars) {
		cfg.Sidecars = append(cfg.Sidecars, l.sidecar(d))
	}
	for _, d := range oldest(l.authorizations) {
		cfg.Authorizations = append(cfg.Authorizations, l.authorization(d))
	}
	for _, d := range l.workloadEntries {
		l.workloadEntry(d)
	}
	cfg.Workloads = l.workloads
	cfg.Mesh = l.meshConfig()
	l.defaultExports(cfg)
}
