// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/check"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

const (
	securityGroup  = "security.istio.io"
	telemetryGroup = "telemetry.istio.io"
)

// The API groups of what says to whom rules apply, besides Istio's own.
const (
	// egressdGroup has what Istio has no kind for.
	egressdGroup = "egressd.dev"
	// operatorGroup is that of the file that istioctl installs Istio from.
	operatorGroup = "install.istio.io"
)

// object is one decoded object.
type object struct {
	check.Checker
	kind  string
	batch *batch // that it was read in
	// root and meta are nil in ServiceEntries that have been translated; see
	// batch.restore.
	root  *strictyaml.Node
	meta  *meta.ObjectMeta
	ref   policy.Ref
	order int
	done  *translation // nil: it is still to be translated
}

// spec returns the node at path in the spec, as far as it exists.
func (o *object) spec(path ...any) *strictyaml.Node {
	s := o.root.Get("spec")
	if s == nil || s.IsNull() {
		s = &strictyaml.Node{Kind: strictyaml.Mapping, Line: o.root.Line, Col: o.root.Col}
	}
	return s.At(path...)
}

// letGo forgets what an object was read from. Nearly all of a big policy are
// ServiceEntries; their trees are several times what they say.
func (o *object) letGo() { o.root, o.meta, o.Report = nil, nil, nil }

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

// decoded pairs an object with its official type.
type decoded[T any] struct {
	*object
	v *T
}

// created is when an object was made, in seconds since 1970; 0 when it does
// not say.
func created(m *meta.ObjectMeta) int64 {
	if m.CreationTimestamp.IsZero() {
		return 0
	}
	return m.CreationTimestamp.Unix()
}

// oldestFirst orders objects as Istio gives them precedence.
func oldestFirst[T any](a, b decoded[T]) int {
	at, bt := a.meta.CreationTimestamp, b.meta.CreationTimestamp
	switch {
	case at.IsZero() && bt.IsZero():
		return a.order - b.order
	case at.IsZero():
		return 1
	case bt.IsZero():
		return -1
	}
	if c := at.Compare(bt.Time); c != 0 {
		return c
	}
	if c := strings.Compare(a.meta.Name, b.meta.Name); c != 0 {
		return c
	}
	return strings.Compare(a.meta.Namespace, b.meta.Namespace)
}

// oldest returns objects in order of precedence.
func oldest[T any](all []decoded[T]) []decoded[T] {
	slices.SortStableFunc(all, oldestFirst[T])
	return all
}

// endpoints is what headless Services with hand-written addresses still use.
//
//lint:ignore SA1019 deprecated in Kubernetes 1.33, and in wide use
type endpoints = core.Endpoints

// kind is what is known of one kind of objects. What compares its objects with
// others is in package analyze, whose table says so by the name of the kind.
type kind struct {
	group, name string
	versions    []string // nil: any
	// has says whether an object has something for egressd in it; nil: always.
	has func(*strictyaml.Node) bool
	// decode reads an object as far as that needs no other one. What is to be
	// done when the others are known goes to the draft. It is called
	// concurrently for several objects.
	decode func(*object, *draft)
	// translate puts all objects of the kind into the Config; nil: another kind
	// does, or none.
	translate func(*loader, *policy.Config)
	// inert says why objects are not acted on; "": they are.
	inert string
	// codes are those of what is said of an object by itself: codes, or what
	// several begin with.
	codes []string
	// files are those of the kind, without ".go", below policy/istio.
	files []string
}

// kindTable finds kinds.
type kindTable struct {
	all    []kind
	byName map[string]*kind // by "group/name"
}

// draft is one document, read as far as that needs no other one.
type draft struct {
	object *object // nil: nothing that is read, or not readable
	// service is the translation of a ServiceEntry that needs no other object.
	service *policy.Service
	// take hands on what needs others; nil: nothing.
	take func(*loader)
	said *said // nil: nothing
}

func (d *draft) says() said {
	if d.said == nil {
		return said{}
	}
	return *d.said
}

func (d *draft) note() *said {
	if d.said == nil {
		d.said = &said{}
	}
	return d.said
}

// said is what there is to say about a draft.
type said struct {
	head []Finding // up to and including the metadata
	body []Finding // of the rest of the object
	// unread are the values of the body that could not be decoded.
	unread map[strictyaml.Spot]bool
}

// batch is some documents of a file that follow each other, and what came of
// reading them. That depends on nothing else, so it is good for as long as the
// file has this text at this line.
type batch struct {
	file string
	strictyaml.Chunk
	findings []Finding // of text that is no document
	drafts   []draft
	said     int // findings here and in the drafts
	errors   int // of them
	mark     int // that a Reader compares it by
	// plain says that nothing but names connects the drafts with what is in
	// other batches.
	plain bool
	// services are those of the drafts, in their order.
	services []*policy.Service
	// exported are services as they are with a default for exportTo, which is
	// exportedFor; nil until there is one.
	exported    []*policy.Service
	exportedFor *visibility
}

// visibility is a default of exportTo: "." stands for the namespace of the
// object that it is used for, which own remembers.
type visibility struct {
	namespaces []string
	own, all   bool
}

// equal says whether two defaults are the same; nil is none.
func (v *visibility) equal(w *visibility) bool {
	if v == nil || w == nil {
		return v == w
	}
	return v.own == w.own && v.all == w.all && slices.Equal(v.namespaces, w.namespaces)
}
