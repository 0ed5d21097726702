// SPDX-License-Identifier: Apache-2.0

package kubestatus

import (
	"fmt"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/egressd/egressd/internal/testenv"
)

// serve makes a pod of egressd's on a node, ready or not, with labels.
func (s *site) serve(t *testing.T, namespace, node string, ready core.ConditionStatus, labels map[string]string, ips ...string) {
	t.Helper()
	pod := s.Pod(t, &core.Pod{ObjectMeta: meta.ObjectMeta{Namespace: namespace, Name: node, Labels: labels}, Spec: core.PodSpec{NodeName: node, HostNetwork: true}}, ips...)
	s.ready(t, pod, ready)
}

func (s *site) ready(t *testing.T, pod *core.Pod, ready core.ConditionStatus) {
	t.Helper()
	pod.Status.HostIPs = nil
	for _, ip := range pod.Status.PodIPs { // in the node's network they are the same
		pod.Status.HostIPs = append(pod.Status.HostIPs, core.HostIP(ip))
	}
	pod.Status.HostIP = pod.Status.PodIP
	pod.Status.Conditions = []core.PodCondition{{Type: core.PodReady, Status: ready}}
	if _, err := s.Client(t).CoreV1().Pods(pod.Namespace).UpdateStatus(t.Context(), pod, meta.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// TestGatewayNodes: a Gateway is programmed when a node serves it, and reached at the
// addresses of these; pods that are not ready, of others, or elsewhere do not count.
func TestGatewayNodes(t *testing.T) {
	s := newSite(t)
	s.InstallGatewayAPI(t)
	s.Apply(t, fmt.Sprintf(`{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: gw, namespace: %s}, spec: {gatewayClassName: egressd, listeners: [{name: http, port: 80, protocol: HTTP}]}}`, s.ns))
	of := map[string]string{"gateway.networking.k8s.io/gateway-name": "gw", "egressd.dev/gateway-namespace": s.ns, "app.kubernetes.io/name": "egressd"}
	other := map[string]string{"gateway.networking.k8s.io/gateway-name": "gw", "egressd.dev/gateway-namespace": "other"}
	foreign := s.Namespace(t, nil)
	s.serve(t, foreign, "gw-forger", core.ConditionTrue, of, "192.0.2.66")
	s.serve(t, s.ns, "gw-other", core.ConditionTrue, other, "192.0.2.67")
	s.serve(t, s.ns, "gw-late", core.ConditionFalse, of, "192.0.2.3", "2001:db8::3")
	s.run(t, node{})
	s.Kubectl(t, "wait", "-n", s.ns, "gateway/gw", "--for=condition=Accepted", "--timeout=30s")
	says := func(programmed string, want ...string) {
		t.Helper()
		var got string
		defer func() {
			if t.Failed() {
				t.Logf("it is %s, want %s at %v", got, programmed, want)
			}
		}()
		testenv.Until(t, "the API server has it", func() bool {
			got = s.Kubectl(t, "get", "-n", s.ns, "gateway/gw", "-o", `jsonpath={.status.conditions[?(@.type=="Programmed")].status} {.status.addresses[*].value}`)
			return got == strings.TrimSpace(programmed)+" "+strings.Join(want, " ")
		})
	}
	says("False")
	s.serve(t, s.ns, "gw-b", core.ConditionTrue, of, "192.0.2.2", "2001:db8::2")
	says("True", "192.0.2.2", "2001:db8::2")
	s.serve(t, s.ns, "gw-a", core.ConditionTrue, of, "192.0.2.1", "2001:db8::1")
	says("True", "192.0.2.1", "2001:db8::1", "192.0.2.2", "2001:db8::2")
	pod, err := s.Client(t).CoreV1().Pods(s.ns).Get(t.Context(), "gw-late", meta.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s.ready(t, pod, core.ConditionTrue)
	says("True", "192.0.2.1", "2001:db8::1", "192.0.2.2", "2001:db8::2", "192.0.2.3", "2001:db8::3")
	for _, name := range []string{"gw-a", "gw-late"} {
		s.DeletePod(t, s.ns, name)
	}
	says("True", "192.0.2.2", "2001:db8::2")
	s.DeletePod(t, s.ns, "gw-b")
	says("False")
	s.Kubectl(t, "patch", "-n", s.ns, "gateway", "gw", "--type=merge", "-p", `{"spec":{"addresses":[{"value":"192.0.2.9"}]}}`)
	says("True", "192.0.2.9")
}
