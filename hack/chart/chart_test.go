// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/chart/v2/lint"
	"helm.sh/helm/v4/pkg/chart/v2/lint/support"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	rbac "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"
)

const (
	top   = "../.."
	chart = top + "/deploy/helm/egressd"
)

// TestCommitted: the manifests are what the chart makes.
func TestCommitted(t *testing.T) {
	if err := run(top, false); err != nil {
		t.Error(err)
	}
}

// TestLint: helm has nothing to say of the chart.
func TestLint(t *testing.T) {
	l := lint.RunAll(chart, nil, namespace)
	for _, m := range l.Messages {
		if m.Severity > support.InfoSev {
			t.Error(m)
		}
	}
}

// values reads values from YAML.
func values(t *testing.T, text string) map[string]any {
	t.Helper()
	out := map[string]any{}
	if err := yaml.Unmarshal([]byte(text), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// all are objects by KIND/NAME.
type all map[string]runtime.Object

// objects renders the chart and reads each object strictly: no field that the API
// does not have, none twice.
func objects(t *testing.T, text string) all {
	t.Helper()
	list, err := render(chart, values(t, text))
	if err != nil {
		t.Fatal(err)
	}
	decode := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	out := all{}
	for _, o := range list {
		name := o.kind + "/" + o.name
		if out[name] != nil && o.namespace == namespace {
			t.Errorf("%s: there are two", name)
		}
		if slices.Contains([]string{"ServiceMonitor", "PrometheusRule", "GatewayClass"}, o.kind) { // this module has no types of these APIs
			out[name] = &runtime.Unknown{Raw: []byte(o.text)}
			continue
		}
		if out[name], _, err = decode.Decode([]byte(o.text), nil, nil); err != nil {
			t.Errorf("%s: %v\n%s", name, err, o.text)
		}
	}
	return out
}

// get is one of the objects.
func get[T runtime.Object](t *testing.T, a all, name string) T {
	t.Helper()
	o, ok := a[name].(T)
	if !ok {
		t.Fatalf("no %s among %v", name, slices.Sorted(keys(a)))
	}
	return o
}

func keys(a all) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range a {
			if !yield(k) {
				return
			}
		}
	}
}

// matrix are values of which each is rendered.
var matrix = map[string]string{
	"default":   "{}",
	"namespace": "{namespace: {create: true}}",
	"image":     `{image: {digest: "sha256:` + strings.Repeat("ab", 32) + `", pullPolicy: Always}, imagePullSecrets: [{name: registry}]}`,
	"enforce":   "{mode: enforce, onFailure: lock, systemNamespaces: [kube-system, monitoring], clusterCIDRs: [10.0.0.0/8, 'fd00::/48']}",
	"files":     "{policy: {files: {a.yaml: 'x: 1', b.yaml: 'y: 2'}}}",
	"own files": "{policy: {existingConfigMap: mine}}",
	"dns":       "{dns: {servers: [10.96.0.10, '[fd00::a]:53']}, dnsPolicy: None, dnsConfig: {nameservers: [10.96.0.10]}}",
	"api":       "{apiServer: {host: api.example.com, port: 6443}, extraArgs: ['--max-flows=100000']}",
	"read only": "{status: {write: false}}",
	"secrets":   "{secrets: [{namespace: shop, names: [a, b]}, {namespace: web}]}",
	"metrics":   "{metrics: {expose: true, serviceMonitor: {enabled: true, labels: {release: prometheus}}}}",
	"alerts":    "{metrics: {rules: {enabled: true, labels: {release: prometheus}}, dashboard: {enabled: true}}}",
	"gateway":   "{gateway: {enabled: true, selector: {istio: ingressgateway, zone: edge}, class: {create: true}, service: {enabled: true, annotations: {a: b}}}}",
	"gateways":  "{gateway: {enabled: true, nodeLabel: egressd.dev/gateway, service: {enabled: true, type: ClusterIP}}, affinity: {podAffinity: {}}}",
	"pods":      "{podLabels: {a: b}, podAnnotations: {c: d}, tolerations: [], serviceAccount: {annotations: {e: f}}, resources: {}, seLinuxOptions: {}}",
	"bpffs":     "{bpffs: {mount: true}, hostPaths: {run: /srv/egressd}}",
	"unload":    "{unload: true}",
	"unload gw": "{unload: true, gateway: {enabled: true, nodeLabel: egressd.dev/gateway}, policy: {files: {a.yaml: 'x: 1'}}}",
}

// TestMatrix: whatever the values are, what comes of them is what the API has, and
// what all DaemonSets must be holds.
func TestMatrix(t *testing.T) {
	for name, text := range matrix {
		t.Run(name, func(t *testing.T) {
			for _, o := range objects(t, text) {
				switch o := o.(type) {
				case *apps.DaemonSet:
					daemonSet(t, o)
				case *rbac.ClusterRole:
					leastVerbs(t, o.Name, o.Rules)
				case *rbac.Role:
					leastVerbs(t, o.Name, o.Rules)
				}
			}
		})
	}
}

// daemonSet checks what must hold of every DaemonSet.
func daemonSet(t *testing.T, d *apps.DaemonSet) {
	t.Helper()
	spec := d.Spec.Template.Spec
	if !spec.HostNetwork || !spec.HostPID || spec.PriorityClassName != "system-node-critical" {
		t.Errorf("%s: host network %t, host processes %t, priority %q", d.Name, spec.HostNetwork, spec.HostPID, spec.PriorityClassName)
	}
	for k, v := range d.Spec.Selector.MatchLabels {
		if d.Spec.Template.Labels[k] != v {
			t.Errorf("%s: its pods have not the label %s=%s", d.Name, k, v)
		}
	}
	volumes := map[string]bool{}
	for _, v := range spec.Volumes {
		volumes[v.Name] = true
	}
	for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
		s := c.SecurityContext
		if *s.Privileged || *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem || !slices.Equal(s.Capabilities.Drop, []core.Capability{"ALL"}) {
			t.Errorf("%s/%s: %+v", d.Name, c.Name, s)
		}
		// Ports of a pod in the node's network are the node's: the scheduler would
		// find no room for the pod that takes over.
		if len(c.Ports) > 0 {
			t.Errorf("%s/%s names ports: %v", d.Name, c.Name, c.Ports)
		}
		for _, m := range c.VolumeMounts {
			if !volumes[m.Name] {
				t.Errorf("%s/%s: no volume %s", d.Name, c.Name, m.Name)
			}
			// The API server lets only privileged containers do that.
			if m.MountPropagation != nil && *m.MountPropagation == core.MountPropagationBidirectional {
				t.Errorf("%s/%s: mount %s is bidirectional", d.Name, c.Name, m.Name)
			}
		}
	}
}

// leastVerbs checks that a role has no wildcard, writes nothing but status, Events
// and the lease, and reads Secrets only by a role of their own.
func leastVerbs(t *testing.T, name string, rules []rbac.PolicyRule) {
	t.Helper()
	for _, r := range rules {
		if slices.Contains(slices.Concat(r.APIGroups, r.Resources, r.Verbs), "*") {
			t.Errorf("%s: a wildcard in %+v", name, r)
		}
		for _, resource := range r.Resources {
			if resource == "secrets" && name != "egressd-secrets" {
				t.Errorf("%s reads Secrets", name)
			}
			for _, verb := range r.Verbs {
				reads := slices.Contains([]string{"get", "list", "watch"}, verb)
				writes := strings.HasSuffix(resource, "/status") && slices.Contains([]string{"update", "patch"}, verb) ||
					resource == "events" && slices.Contains([]string{"create", "patch"}, verb) ||
					resource == "leases" && slices.Contains([]string{"create", "update", "patch"}, verb)
				if !reads && !writes {
					t.Errorf("%s: %s %s", name, verb, resource)
				}
			}
		}
	}
}

// TestValues: what the values say is in the objects.
func TestValues(t *testing.T) {
	node := func(t *testing.T, text, name string) core.PodSpec {
		return get[*apps.DaemonSet](t, objects(t, text), "DaemonSet/"+name).Spec.Template.Spec
	}
	has := func(t *testing.T, spec core.PodSpec, arg string, want bool) {
		t.Helper()
		if slices.Contains(spec.Containers[0].Args, arg) != want {
			t.Errorf("%s among %v: want %t", arg, spec.Containers[0].Args, want)
		}
	}
	adds := func(spec core.PodSpec) string { return fmt.Sprint(spec.Containers[0].SecurityContext.Capabilities.Add) }

	t.Run("settings", func(t *testing.T) {
		a := objects(t, matrix["enforce"])
		got := get[*core.ConfigMap](t, a, "ConfigMap/egressd").Data
		for k, want := range map[string]string{
			"MODE": "enforce", "ON_FAILURE": "lock", "SYSTEM_NAMESPACES": "kube-system,monitoring,egressd-system",
			"CLUSTER_CIDR": "10.0.0.0/8,fd00::/48", "STATUS_ADDRESS": "localhost:15020",
		} {
			if got[k] != want {
				t.Errorf("%s is %q, want %q", k, got[k], want)
			}
		}
		// Each setting is a flag, and each flag a setting.
		args := strings.Join(node(t, "{}", "egressd").Containers[0].Args, " ")
		used := map[string]bool{"NODE_NAME": true}
		for _, m := range regexp.MustCompile(`\$\((\w+)\)`).FindAllStringSubmatch(args, -1) {
			used[m[1]] = true
			if _, ok := got[m[1]]; !ok && m[1] != "NODE_NAME" {
				t.Errorf("no setting %s", m[1])
			}
		}
		for k := range got {
			if !used[k] {
				t.Errorf("no flag has the setting %s", k)
			}
		}
	})
	t.Run("new settings are new pods", func(t *testing.T) {
		mark := func(text string) string {
			return get[*apps.DaemonSet](t, objects(t, text), "DaemonSet/egressd").Spec.Template.Annotations["egressd.dev/settings"]
		}
		if mark("{}") == mark("{mode: audit}") || mark("{}") != mark("{podLabels: {a: b}}") {
			t.Error("the mark does not follow the settings")
		}
	})
	t.Run("policy", func(t *testing.T) {
		has(t, node(t, "{}", "egressd"), "--config=/etc/egressd", false)
		has(t, node(t, matrix["files"], "egressd"), "--config=/etc/egressd", true)
		for _, v := range node(t, matrix["own files"], "egressd").Volumes {
			if v.Name == "policy" && v.ConfigMap.Name != "mine" {
				t.Errorf("%+v", v)
			}
		}
	})
	t.Run("secrets", func(t *testing.T) {
		a := objects(t, "{secrets: [{namespace: shop, names: [a, b]}]}")
		r := get[*rbac.Role](t, a, "Role/egressd-secrets")
		if r.Namespace != "shop" || !slices.Equal(r.Rules[0].ResourceNames, []string{"a", "b"}) {
			t.Errorf("%+v", r)
		}
	})
	t.Run("read only", func(t *testing.T) {
		if a := objects(t, matrix["read only"]); a["ClusterRole/egressd-write"] != nil || a["ClusterRole/egressd-read"] == nil {
			t.Errorf("%v", slices.Sorted(keys(a)))
		}
	})
	t.Run("capabilities", func(t *testing.T) {
		for text, want := range map[string]string{
			"{}":                         "[NET_ADMIN SYS_ADMIN SYS_PTRACE DAC_READ_SEARCH]",
			"{bpffs: {mount: true}}":     "[NET_ADMIN SYS_ADMIN SYS_PTRACE DAC_READ_SEARCH SYS_CHROOT]",
			"{gateway: {enabled: true}}": "[NET_ADMIN SYS_ADMIN SYS_PTRACE DAC_READ_SEARCH NET_BIND_SERVICE]",
		} {
			if got := adds(node(t, text, "egressd")); got != want {
				t.Errorf("%s: %s, want %s", text, got, want)
			}
		}
	})
	t.Run("gateways on some nodes", func(t *testing.T) {
		plain, gateway := node(t, matrix["gateways"], "egressd"), node(t, matrix["gateways"], "egressd-gateway")
		has(t, plain, "--gateway-selector=istio=ingressgateway", false)
		has(t, gateway, "--gateway-selector=istio=ingressgateway", true)
		labels := func(name string) map[string]string {
			return get[*apps.DaemonSet](t, objects(t, matrix["gateways"]), "DaemonSet/"+name).Spec.Template.Labels
		}
		if labels("egressd")["istio"] != "" || labels("egressd-gateway")["istio"] != "ingressgateway" {
			t.Errorf("pods do not say what they serve: %v, %v", labels("egressd"), labels("egressd-gateway"))
		}
		if gateway.NodeSelector["egressd.dev/gateway"] != "true" || plain.Affinity.NodeAffinity == nil {
			t.Errorf("a node has both: %v, %v", gateway.NodeSelector, plain.Affinity)
		}
		s := get[*core.Service](t, objects(t, matrix["gateways"]), "Service/egressd-gateway")
		if s.Spec.Selector["app.kubernetes.io/component"] != "gateway" {
			t.Errorf("%v", s.Spec.Selector)
		}
	})
	t.Run("class", func(t *testing.T) {
		const name = "GatewayClass/egressd"
		class := get[*runtime.Unknown](t, objects(t, matrix["gateway"]), name)
		if !strings.Contains(string(class.Raw), "controllerName: egressd.dev/gateway") {
			t.Errorf("nobody controls it: %s", class.Raw)
		}
		// Where the Gateway API is not installed, it would make the whole release fail.
		if _, there := objects(t, matrix["gateways"])[name]; there {
			t.Error("there is one that nobody asked for")
		}
	})
	t.Run("unload", func(t *testing.T) {
		d := get[*apps.DaemonSet](t, objects(t, "{unload: true}"), "DaemonSet/egressd")
		spec := d.Spec.Template.Spec
		if !slices.Equal(spec.InitContainers[0].Args, []string{"unload"}) || !slices.Equal(spec.Containers[0].Args, []string{"unload", "--stay"}) {
			t.Errorf("%v, %v", spec.InitContainers[0].Args, spec.Containers[0].Args)
		}
		if spec.Containers[0].StartupProbe != nil || d.Spec.UpdateStrategy.RollingUpdate.MaxSurge.IntVal != 0 {
			t.Error("the daemon's probes, or two pods at once")
		}
	})
	t.Run("takeover", func(t *testing.T) {
		d := get[*apps.DaemonSet](t, objects(t, "{}"), "DaemonSet/egressd")
		has(t, d.Spec.Template.Spec, "--takeover", true)
		has(t, d.Spec.Template.Spec, "--stay", true)
		u := d.Spec.UpdateStrategy.RollingUpdate
		if u.MaxSurge.IntVal != 1 || u.MaxUnavailable.IntVal != 0 {
			t.Errorf("%+v", u)
		}
	})
}

// TestRefused: values that cannot be meant are an error that says so.
func TestRefused(t *testing.T) {
	for text, want := range map[string]string{
		"{mode: audti}":              "mode",
		"{mode: false}":              "mode", // off, without quotes
		"{modes: off}":               "modes",
		"{onFailure: lock}":          "set mode to enforce",
		"{drainTime: 5}":             "drainTime",
		"{clusterCIDRs: []}":         "clusterCIDRs",
		"{clusterCIDRs: [10.0.0.1]}": "clusterCIDRs",
		"{metrics: {serviceMonitor: {enabled: true}}}":         "metrics.expose",
		"{gateway: {service: {enabled: true}}}":                "gateway.enabled",
		"{gateway: {class: {create: true}}}":                   "gateway.enabled",
		"{policy: {files: {a: b}}}":                            "a",
		"{policy: {files: {a.yaml: b}, existingConfigMap: c}}": "exclude each other",
		"{secrets: [shop]}":                                    "secrets",
		"{extraArgs: [mode]}":                                  "extraArgs",
		"{hostPaths: {run: run}}":                              "run",
	} {
		if _, err := render(chart, values(t, text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want an error with %q", text, err, want)
		}
	}
}

// TestSchemaKnowsAll: each value has a place in the schema.
func TestSchemaKnowsAll(t *testing.T) {
	data, err := os.ReadFile(chart + "/values.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var schema struct {
		Properties map[string]any `json:"properties"`
	}
	if err := json.Unmarshal(data, &schema); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(chart + "/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	own := values(t, string(text))
	for name := range own {
		if schema.Properties[name] == nil {
			t.Errorf("values.yaml has %s, the schema has not", name)
		}
	}
	for name := range schema.Properties {
		if own[name] == nil && name != "global" {
			t.Errorf("the schema has %s, values.yaml has not", name)
		}
	}
}

// TestMonitoring: the alerts and the dashboard are in the cluster as they are in the
// files, and not unless they are asked for.
func TestMonitoring(t *testing.T) {
	for name, o := range objects(t, "{}") {
		if strings.Contains(name, "PrometheusRule") || strings.Contains(name, "dashboard") {
			t.Errorf("%s is there without being asked for: %v", name, o)
		}
	}
	all := objects(t, matrix["alerts"])
	var rule struct {
		Metadata struct{ Labels map[string]string }
		Spec     any
	}
	if err := yaml.Unmarshal(get[*runtime.Unknown](t, all, "PrometheusRule/egressd").Raw, &rule); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(top + "/deploy/prometheus/egressd.rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var want any
	if err := yaml.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(rule.Spec, want) || rule.Metadata.Labels["release"] != "prometheus" {
		t.Errorf("%+v, want %+v", rule, want)
	}
	board, err := os.ReadFile(top + "/deploy/grafana/egressd.json")
	if err != nil {
		t.Fatal(err)
	}
	if m := get[*core.ConfigMap](t, all, "ConfigMap/egressd-dashboard"); strings.TrimSpace(m.Data["egressd.json"]) != strings.TrimSpace(string(board)) || m.Labels["grafana_dashboard"] != "1" {
		t.Errorf("the dashboard is another one: %+v", m.ObjectMeta)
	}
}
