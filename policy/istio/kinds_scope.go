// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"slices"

	"google.golang.org/protobuf/proto"
	networking "istio.io/api/networking/v1alpha3"
	security "istio.io/api/security/v1beta1"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
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
		return kind{group, []string{"v1", "v1beta1", "v1alpha3"}, spec(func(l *loader) *[]decoded[networking.Sidecar] { return &l.sidecars })}, true
	case securityGroup + "/AuthorizationPolicy":
		return kind{group, []string{"v1", "v1beta1"}, spec(func(l *loader) *[]decoded[security.AuthorizationPolicy] { return &l.authorizations })}, true
	case egressdGroup + "/Workload":
		return kind{group, []string{"v1"}, decodeWorkload}, true
	case egressdGroup + "/MeshConfig":
		return kind{group, []string{"v1"}, decodeMeshConfig}, true
	case operatorGroup + "/" + operatorKind:
		return kind{group, []string{"v1alpha1"}, decodeOperator}, true
	case "/" + configMapKind:
		return kind{group, []string{"v1"}, decodeConfigMap}, true
	}
	return kind{}, false
}

// isRead says whether an object of a kind that scopeKind knows has something
// for egressd in it: most ConfigMaps have not.
func isRead(group, name string, n *strictyaml.Node) bool {
	switch {
	case name == operatorKind && group == operatorGroup:
		return n.Get("spec").Field("meshConfig") != nil
	case name == configMapKind && group == "":
		return isMeshConfigMap(n)
	}
	return true
}

// topLevel reports what stands beside the spec and is none of an object's
// fields: a misspelt "spec" would leave all of it out.
func (o *object) topLevel() { o.besideSpec(nil) }

// besideSpec is topLevel for an object whose spec is a message. What stands
// beside the spec instead of in it would do nothing, and an exportTo or
// selector that does nothing opens a host to everybody.
func (o *object) besideSpec(spec proto.Message) {
	known := []string{"apiVersion", "kind", "metadata", "spec", "status"}
	for i := range o.root.Fields {
		f := &o.root.Fields[i]
		switch {
		case slices.Contains(known, f.Key):
		case spec != nil && spec.ProtoReflect().Descriptor().Fields().ByJSONName(f.Key) != nil:
			o.Errorf(f.Pos(), "unknown field %q in the object: it is a field of spec, and stands beside it; indent it as deep as the other fields of spec", f.Key)
		default:
			o.Errorf(f.Pos(), "unknown field %q in the object%s", f.Key, strictyaml.DidYouMean(f.Key, known))
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
	name := ref.Kind + " " + ref.Namespace + "/" + ref.Name
	if o := l.seen[name]; o == nil || o.File == ref.File {
		return o
	}
	for _, o := range l.twice[name] { // only ServiceEntries are in force twice
		if o.ref == ref {
			return o
		}
	}
	return nil
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
	l.workloadConflicts()
	cfg.Mesh = l.meshConfig()
	l.defaultExports(cfg)
}
