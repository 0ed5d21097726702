// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"encoding/json"
	"io"
	"net/http"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kubejson "k8s.io/apimachinery/pkg/runtime/serializer/json"
	strictjson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/client-go/rest"
)

// custom is an object of a kind that is defined: what counts of its metadata, and its
// spec as it was written, which client-go's dynamic client would decode three times for
// egressd to write it again.
type custom struct {
	meta.TypeMeta
	meta.ObjectMeta
	spec json.RawMessage // nil: it has none
}

// DeepCopyObject is for client-go, which copies what it hands to others.
func (c *custom) DeepCopyObject() runtime.Object {
	out := &custom{TypeMeta: c.TypeMeta, spec: append(json.RawMessage(nil), c.spec...)}
	c.DeepCopyInto(&out.ObjectMeta)
	return out
}

// customList is a list of them, from an API server that streams none.
type customList struct {
	meta.TypeMeta
	meta.ListMeta
	Items []custom
}

// DeepCopyObject is for client-go.
func (l *customList) DeepCopyObject() runtime.Object {
	out := &customList{TypeMeta: l.TypeMeta, ListMeta: *l.ListMeta.DeepCopy()}
	for i := range l.Items {
		out.Items = append(out.Items, *l.Items[i].DeepCopyObject().(*custom))
	}
	return out
}

// written is an object or a list as it is sent.
type written struct {
	meta.TypeMeta
	Metadata struct {
		Name              string            `json:"name"`
		Namespace         string            `json:"namespace"`
		UID               string            `json:"uid"`
		ResourceVersion   string            `json:"resourceVersion"`
		Continue          string            `json:"continue"`
		Labels            map[string]string `json:"labels"`
		Annotations       map[string]string `json:"annotations"`
		CreationTimestamp meta.Time         `json:"creationTimestamp"`
	} `json:"metadata"`
	Spec  json.RawMessage `json:"spec"`
	Items []written       `json:"items"`
}

func (w *written) object() custom {
	m := &w.Metadata
	return custom{TypeMeta: w.TypeMeta, ObjectMeta: meta.ObjectMeta{
		Name: m.Name, Namespace: m.Namespace, ResourceVersion: m.ResourceVersion,
		Labels: m.Labels, Annotations: m.Annotations, CreationTimestamp: m.CreationTimestamp,
	}, spec: w.Spec}
}

// customCodec reads objects of kinds that are defined.
type customCodec struct {
	// plain reads what else the API server answers with.
	plain runtime.Serializer
}

func newCustomCodec() customCodec {
	scheme := runtime.NewScheme()
	meta.AddToGroupVersion(scheme, coreVersion)
	return customCodec{kubejson.NewSerializerWithOptions(kubejson.DefaultMetaFactory, scheme, scheme, kubejson.SerializerOptions{})}
}

// coreVersion is that of the API's own kinds: Status, ListOptions.
var coreVersion = schema.GroupVersion{Version: "v1"}

// Decode reads an object, a list or a Status.
func (c customCodec) Decode(data []byte, defaults *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	var w written
	err := strictjson.Unmarshal(data, &w) // as the API server does: "Spec" is not "spec"
	if err != nil || w.Kind == "Status" && w.APIVersion == "v1" || w.Kind == "" || into != nil {
		return c.plain.Decode(data, defaults, into)
	}
	kind := w.GroupVersionKind()
	if w.Items == nil {
		o := w.object()
		return &o, &kind, nil
	}
	list := &customList{TypeMeta: w.TypeMeta, ListMeta: meta.ListMeta{ResourceVersion: w.Metadata.ResourceVersion, Continue: w.Metadata.Continue}}
	for i := range w.Items {
		list.Items = append(list.Items, w.Items[i].object())
	}
	return list, &kind, nil
}

// Encode writes what the API server knows of itself.
func (c customCodec) Encode(o runtime.Object, w io.Writer) error { return c.plain.Encode(o, w) }

// Identifier is for caches of what is encoded.
func (c customCodec) Identifier() runtime.Identifier { return c.plain.Identifier() }

// SupportedMediaTypes is JSON alone, as nothing else is known of these kinds.
func (c customCodec) SupportedMediaTypes() []runtime.SerializerInfo {
	return []runtime.SerializerInfo{{
		MediaType: runtime.ContentTypeJSON, MediaTypeType: "application", MediaTypeSubType: "json", EncodesAsText: true, Serializer: c,
		StreamSerializer: &runtime.StreamSerializerInfo{EncodesAsText: true, Serializer: c.plain, Framer: kubejson.Framer},
	}}
}

// EncoderForVersion is for client-go, and so is the next one: there is one version.
func (c customCodec) EncoderForVersion(e runtime.Encoder, _ runtime.GroupVersioner) runtime.Encoder {
	return e
}

// DecoderToVersion converts nothing.
func (c customCodec) DecoderToVersion(d runtime.Decoder, _ runtime.GroupVersioner) runtime.Decoder {
	return d
}

// customClient makes a client for the kinds that are defined.
func customClient(config *rest.Config, client *http.Client) (rest.Interface, error) {
	config = rest.CopyConfig(config)
	config.GroupVersion, config.APIPath = &coreVersion, "/apis"
	config.ContentType, config.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	config.NegotiatedSerializer = newCustomCodec()
	return rest.RESTClientForConfigAndClient(config, client)
}
