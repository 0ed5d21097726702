// SPDX-License-Identifier: Apache-2.0

package load

import (
	"bytes"
	"encoding/json"
	"slices"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy/istio"
)

// standInMark is the annotation of objects that stand for others.
const standInMark = "egressd.dev/stand-in"

// isStandIn says whether a file is an object that stands for another one.
func isStandIn(f istio.File) bool { return bytes.Contains(f.Data, []byte(standInMark)) }

// written is what can be read of any object.
type written struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name        string            `json:"name"`
		Namespace   string            `json:"namespace,omitempty"`
		Annotations map[string]string `json:"annotations,omitempty"`
	} `json:"metadata"`
	Spec map[string]json.RawMessage `json:"spec,omitempty"`
	Data map[string]string          `json:"data,omitempty"`
}

// restricts says for kinds whose objects take something away, so that to leave one out
// would open what it closes: what denies in its place, and the parts of its spec that
// say for whom it is, which are kept if they are good.
var restricts = map[string]struct {
	denies string
	whose  []string
	names  string // the part that has the hosts that it is for; "": it is for workloads
}{
	"Sidecar":             {`{"egress":[{"hosts":["~/*"]}]}`, []string{"workloadSelector"}, ""},
	"AuthorizationPolicy": {`{"action":"DENY","rules":[{}]}`, []string{"selector", "targetRef", "targetRefs"}, ""},
	"VirtualService":      {`{"http":[{"directResponse":{"status":503}}]}`, []string{"hosts", "gateways", "exportTo"}, "hosts"},
	"HTTPRoute":           {`{"rules":[{}]}`, []string{"parentRefs", "hostnames"}, "hostnames"},
}

// meshDenies is the MeshConfig that stands for a bad one: it could have hidden what is
// hidden here.
const meshDenies = `{"defaultServiceExportTo":["."],"defaultVirtualServiceExportTo":["."],"defaultDestinationRuleExportTo":["."]}`

// standIns are what may stand for a bad object of which no good version is known, the
// best first: it denies what the object is about, or, where that cannot be read, all
// that it could be about: its namespace, or those of its hosts that are some. None are of
// kinds that only open something.
func standIns(f istio.File) []istio.File {
	var o, out written
	if json.Unmarshal(f.Data, &o) != nil {
		// A part of another shape: the rest is enough.
		var head struct {
			APIVersion, Kind string
			Metadata         struct{ Name, Namespace string }
		}
		if json.Unmarshal(f.Data, &head) != nil {
			return nil
		}
		o = written{APIVersion: head.APIVersion, Kind: head.Kind}
		o.Metadata.Name, o.Metadata.Namespace = head.Metadata.Name, head.Metadata.Namespace
	}
	out.APIVersion, out.Kind = o.APIVersion, o.Kind
	out.Metadata.Name, out.Metadata.Namespace = o.Metadata.Name, o.Metadata.Namespace
	out.Metadata.Annotations = map[string]string{standInMark: "true"}
	file := func() istio.File {
		data, err := json.Marshal(out)
		if err != nil {
			return istio.File{} // it cannot be: all in it was read
		}
		return istio.File{Name: f.Name, Data: data}
	}
	if o.Kind == "ConfigMap" {
		out.Data = map[string]string{"mesh": meshDenies}
		return []istio.File{file()}
	}
	r, ok := restricts[o.Kind]
	if !ok || harmless(o) {
		return nil
	}
	if json.Unmarshal([]byte(r.denies), &out.Spec) != nil {
		return nil
	}
	broad := file()
	for _, key := range r.whose {
		if v, ok := o.Spec[key]; ok {
			out.Spec[key] = v
		}
	}
	all := []istio.File{file()}
	if key := r.names; key != "" {
		out.Spec[key] = goodNames(out.Spec[key])
		return append(all, file())
	}
	return append(all, broad)
}

// goodNames are those of a list of hosts that are some.
func goodNames(list json.RawMessage) json.RawMessage {
	var all []any
	if json.Unmarshal(list, &all) != nil {
		return list
	}
	all = slices.DeleteFunc(all, func(v any) bool {
		name, ok := v.(string)
		if !ok {
			return true
		}
		_, err := hostname.ParsePattern(name)
		return err != nil
	})
	data, err := json.Marshal(all)
	if err != nil || len(all) == 0 {
		return list // and nothing stands for the object
	}
	return data
}

// harmless says of objects of such kinds that they take nothing away.
func harmless(o written) bool {
	switch o.Kind {
	case "AuthorizationPolicy":
		return string(o.Spec["action"]) == `"AUDIT"`
	case "VirtualService":
		return o.Spec != nil && o.Spec["http"] == nil // where rules for TLS and TCP do not match, the host is reached itself
	}
	return false
}
