// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/egressd/egressd/policy/istio"
)

// document is the file of an object. What changes all the time and says nothing
// (status, resourceVersion, managedFields) is not in it, so that it changes when the
// policy does.
type document struct {
	APIVersion string     `json:"apiVersion"`
	Kind       string     `json:"kind"`
	Metadata   objectMeta `json:"metadata"`
	// The rest is what the kind has.
	Spec        any             `json:"spec,omitempty"`
	Data        any             `json:"data,omitempty"`
	Type        string          `json:"type,omitempty"`
	AddressType string          `json:"addressType,omitempty"`
	Endpoints   []endpoint      `json:"endpoints,omitempty"`
	Ports       []discoveryPort `json:"ports,omitempty"`
}

type objectMeta struct {
	Name              string            `json:"name"`
	Namespace         string            `json:"namespace,omitempty"`
	Labels            map[string]string `json:"labels,omitempty"`
	Annotations       map[string]string `json:"annotations,omitempty"`
	CreationTimestamp *meta.Time        `json:"creationTimestamp,omitempty"`
}

type endpoint struct {
	Addresses  []string        `json:"addresses"`
	Conditions map[string]bool `json:"conditions,omitempty"`
}

type discoveryPort struct {
	Name     *string        `json:"name,omitempty"`
	Port     *int32         `json:"port,omitempty"`
	Protocol *core.Protocol `json:"protocol,omitempty"`
}

type servicePort struct {
	Name        string        `json:"name,omitempty"`
	Port        int32         `json:"port"`
	Protocol    core.Protocol `json:"protocol,omitempty"`
	AppProtocol *string       `json:"appProtocol,omitempty"`
	TargetPort  any           `json:"targetPort,omitempty"`
}

type serviceSpec struct {
	Type         core.ServiceType  `json:"type,omitempty"`
	ClusterIP    string            `json:"clusterIP,omitempty"`
	ClusterIPs   []string          `json:"clusterIPs,omitempty"`
	ExternalName string            `json:"externalName,omitempty"`
	Selector     map[string]string `json:"selector,omitempty"`
	Ports        []servicePort     `json:"ports,omitempty"`
}

// start begins the document of an object.
func (t *table) start(m meta.Object) document {
	out := document{APIVersion: t.apiVersion, Kind: t.kind.kind, Metadata: objectMeta{
		Name: m.GetName(), Namespace: m.GetNamespace(), Labels: m.GetLabels(), Annotations: m.GetAnnotations(),
	}}
	for key := range out.Metadata.Annotations {
		if foreign(key) {
			out.Metadata.Annotations = maps.Clone(out.Metadata.Annotations)
			maps.DeleteFunc(out.Metadata.Annotations, func(key, _ string) bool { return foreign(key) })
			break
		}
	}
	if at := m.GetCreationTimestamp(); !at.IsZero() {
		out.Metadata.CreationTimestamp = &at
	}
	return out
}

// foreign says whether an annotation is for others: what kubectl and controllers note
// for themselves can be longer than the object, and change all the time.
func foreign(annotation string) bool {
	domain, _, _ := strings.Cut(annotation, "/")
	return domain != "egressd.dev" && domain != "istio.io" && !strings.HasSuffix(domain, ".istio.io")
}

// object is what is kept of an object with a file.
func (d document) object() *object {
	o := &object{}
	o.Name, o.Namespace = d.Metadata.Name, d.Metadata.Namespace
	var err error
	if o.data, err = json.Marshal(d); err != nil {
		o.problem = err.Error() // no value that came as JSON or protobuf has one
	}
	return o
}

// renderCustom renders an object of a kind that is defined.
func renderCustom(t *table, v any) *object {
	c, ok := v.(*custom)
	if !ok {
		return nil
	}
	d := t.start(c)
	if len(c.spec) > 0 && string(c.spec) != "null" {
		d.Spec = c.spec
	}
	o := d.object()
	if namesSecrets(t.kind) {
		var spec map[string]any
		_ = json.Unmarshal(c.spec, &spec) // what is no mapping names none
		o.secrets = t.source.secretsOf(t.kind, o.Namespace, spec)
	}
	o.secrets = append(o.secrets, headerSecrets(t.kind, o.Namespace, c.GetAnnotations())...)
	return o
}

func renderService(t *table, v any) *object {
	s, ok := v.(*core.Service)
	if !ok {
		return nil
	}
	d := t.start(s)
	spec := serviceSpec{
		Type: s.Spec.Type, ClusterIP: s.Spec.ClusterIP, ClusterIPs: s.Spec.ClusterIPs,
		ExternalName: s.Spec.ExternalName, Selector: s.Spec.Selector,
	}
	for _, p := range s.Spec.Ports {
		out := servicePort{Name: p.Name, Port: p.Port, Protocol: p.Protocol, AppProtocol: p.AppProtocol}
		if target := p.TargetPort; target.IntVal != 0 || target.StrVal != "" {
			out.TargetPort = target
		}
		spec.Ports = append(spec.Ports, out)
	}
	d.Spec = spec
	return d.object()
}

// renderSlice renders an EndpointSlice, unless it is of no Service, or has names in
// the place of addresses.
func renderSlice(t *table, v any) *object {
	s, ok := v.(*discovery.EndpointSlice)
	if !ok {
		return nil
	}
	d := t.start(s)
	service := s.Labels[discovery.LabelServiceName]
	d.Metadata.Labels, d.Metadata.Annotations = map[string]string{discovery.LabelServiceName: service}, nil
	d.AddressType = string(s.AddressType)
	for _, e := range s.Endpoints {
		if ready := e.Conditions.Ready; ready == nil || *ready {
			d.Endpoints = append(d.Endpoints, endpoint{Addresses: e.Addresses})
		}
	}
	for _, p := range s.Ports {
		d.Ports = append(d.Ports, discoveryPort{p.Name, p.Port, p.Protocol})
	}
	o := d.object()
	if service == "" || s.AddressType == discovery.AddressTypeFQDN {
		o.data = nil
	}
	return o
}

// renderNamespace renders the labels of a namespace.
func renderNamespace(t *table, v any) *object {
	ns, ok := v.(*core.Namespace)
	if !ok {
		return nil
	}
	d := t.start(ns)
	d.Metadata.Annotations, d.Metadata.CreationTimestamp = nil, nil
	o := d.object()
	o.labels = ns.Labels
	return o
}

// renderConfigMap renders the text that has the MeshConfig.
func renderConfigMap(t *table, v any) *object {
	c, ok := v.(*core.ConfigMap)
	if !ok {
		return nil
	}
	d := t.start(c)
	if mesh, ok := c.Data["mesh"]; ok {
		d.Data = map[string]string{"mesh": mesh}
	}
	return d.object()
}

func renderSecret(t *table, v any) *object {
	s, ok := v.(*core.Secret)
	if !ok {
		return nil
	}
	d := t.start(s)
	d.Metadata.Labels, d.Metadata.Annotations = nil, nil
	d.Data, d.Type = s.Data, string(s.Type)
	return d.object()
}

// namesSecrets says whether objects of a kind may name Secrets.
func namesSecrets(k kind) bool {
	return k.name == gatewayKind || k.name == gatewayAPIKind || k.name == ruleKind
}

// secretsOf are the Secrets that an object names, sorted, as NAMESPACE/NAME: of its own
// namespace, or of another one where the Gateway API lets them be (whether that one
// agrees is judged where they are used).
func (s *Informer) secretsOf(k kind, namespace string, spec map[string]any) []string {
	found := map[string]bool{}
	switch {
	case k.name == gatewayKind && !s.gateway(spec):
		return nil
	case k.name == gatewayAPIKind && len(s.o.GatewaySelector) == 0:
		return nil // this node serves no visitors
	}
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for key, value := range v {
				switch name, isText := value.(string); {
				case (key == "credentialName" || key == "caCertCredentialName") && isText:
					credential(found, namespace, name)
				case key == "credentialNames":
					names, _ := value.([]any)
					for _, n := range names {
						if text, ok := n.(string); ok {
							credential(found, namespace, text)
						}
					}
				case key == "certificateRefs":
					refs, _ := value.([]any)
					for _, r := range refs {
						reference(found, namespace, r)
					}
				default:
					walk(value)
				}
			}
		case []any:
			for _, item := range v {
				walk(item)
			}
		}
	}
	walk(spec)
	return slices.Sorted(maps.Keys(found))
}

// gateway says whether a Gateway of Istio's is this node's.
func (s *Informer) gateway(spec map[string]any) bool {
	selector, _ := spec["selector"].(map[string]any)
	if len(s.o.GatewaySelector) == 0 {
		return false
	}
	for key, value := range selector {
		if text, ok := value.(string); !ok || s.o.GatewaySelector[key] != text {
			return false
		}
	}
	return true
}

// headerSecrets are the Secrets of its own namespace that a VirtualService takes the
// values of headers from.
func headerSecrets(k kind, namespace string, annotations map[string]string) []string {
	if k.name != "VirtualService" {
		return nil
	}
	found := map[string]bool{}
	for part := range strings.SplitSeq(annotations[istio.AnnotationHeaderFrom], "secret://"+namespace+"/") {
		if name, _, ok := strings.Cut(part, "/"); ok && !strings.ContainsAny(name, "=:, \n") {
			found[namespace+"/"+name] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// credential adds the Secret of a credentialName, and the one that may have its CA
// beside it.
func credential(found map[string]bool, namespace, name string) {
	name = strings.TrimPrefix(name, "kubernetes://")
	if name == "" || strings.Contains(name, "/") {
		return
	}
	found[namespace+"/"+name] = true
	found[namespace+"/"+name+"-cacert"] = true
}

// reference adds the Secret of a certificateRef.
func reference(found map[string]bool, namespace string, v any) {
	ref, _ := v.(map[string]any)
	text := func(key string) string { s, _ := ref[key].(string); return s }
	if kind := text("kind"); kind != "" && kind != "Secret" || text("group") != "" {
		return
	}
	if ns := text("namespace"); ns != "" {
		namespace = ns
	}
	if name := text("name"); name != "" {
		found[namespace+"/"+name] = true
	}
}
