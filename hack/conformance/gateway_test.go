// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/egressd/egressd/internal/world"
)

// class is the GatewayClass under test.
const class = "egressd"

// gatewayNode is a node whose egressd serves one Gateway.
type gatewayNode struct {
	*machine
	bpffs string
	root  *world.Cgroup
}

// nodes gives each Gateway its node, as long as it is there.
func (c *cluster) nodes() {
	var all gateway.GatewayList
	if err := c.objects.List(c.ctx, &all); err != nil {
		return
	}
	seen := map[string]bool{"": true}
	for i := range all.Items {
		g := &all.Items[i]
		if string(g.Spec.GatewayClassName) != class {
			continue
		}
		seen[string(g.UID)] = true
		if c.gateways[string(g.UID)] == nil {
			c.serve(string(g.UID), g.Namespace, g.Name)
		}
	}
	for uid, n := range c.gateways {
		if !seen[uid] {
			n.end()
			delete(c.gateways, uid)
		}
	}
}

// serve starts an egressd for a Gateway; without a name for none: it writes statuses.
func (c *cluster) serve(uid, namespace, name string) {
	number := len(c.names) + 1
	node := strings.TrimSuffix(fmt.Sprintf("gateway-%d-%s", number, name), "-")
	c.names = append(c.names, node)
	// Without the Gateway's name: paths of unix sockets are at most 107 bytes long.
	dir := filepath.Join(os.Getenv(inside), fmt.Sprintf("gateway-%d", number))
	n := &gatewayNode{bpffs: filepath.Join(dir, "bpf")}
	for _, d := range []string{dir, n.bpffs} {
		if err := os.Mkdir(d, 0o700); err != nil {
			c.t.Error(err)
			return
		}
	}
	run(c.t, "mount", "-t", "bpf", "-o", "mode=0700", "egressd", n.bpffs)
	var err error
	if n.root, err = world.NewCgroup("conformance"); err != nil {
		c.t.Error(err)
		return
	}
	args := []string{
		"run", "--kubernetes", "--kubeconfig", c.kubeconfig, "--node-name", node, "--interfaces", "none", "--mode", "off",
		"--cgroup", n.root.Path(), "--state-dir", filepath.Join(dir, "state"), "--pin-dir", filepath.Join(n.bpffs, "egressd"), "--volatile-pins",
		"--dns-server", bridgeIP + ":53", "--drain-time", "1s",
	}
	labels := map[string]string{gateway.GroupName + "/gateway-name": name, "egressd.dev/gateway-namespace": namespace}
	if name != "" {
		args = append(args, "--gateway-selector", gateway.GroupName+"/gateway-name="+name+",egressd.dev/gateway-namespace="+namespace)
	}
	if _, err := c.client.CoreV1().Nodes().Create(c.ctx, &core.Node{ObjectMeta: meta.ObjectMeta{Name: node}}, meta.CreateOptions{}); err != nil {
		c.t.Error(err)
	}
	n.machine = start(c.t, node, nil, filepath.Join(os.Getenv(inside), "egressd"), args...)
	c.gateways[uid] = n
	if name != "" {
		c.ready(&core.Pod{ObjectMeta: meta.ObjectMeta{Namespace: "egressd-system", Name: node, Labels: labels}, Spec: core.PodSpec{HostNetwork: true}}, node, n.ip)
	}
}

// end ends the node and takes away what it had.
func (n *gatewayNode) end() {
	n.machine.end()
	_ = exec.Command("umount", n.bpffs).Run()
	_ = n.root.Close()
}
