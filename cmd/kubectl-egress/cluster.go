// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/egressd/egressd/internal/quote"
)

// selector finds what belongs to egressd.
const selector = "app.kubernetes.io/name=egressd"

// call is one call of kubectl.
type call struct {
	args           []string
	stdin          io.Reader
	stdout, stderr io.Writer
}

// execute runs the kubectl of the PATH.
func execute(ctx context.Context, c call) error {
	cmd := exec.CommandContext(ctx, "kubectl", c.args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.stdin, c.stdout, c.stderr
	cmd.WaitDelay = time.Second
	return cmd.Run()
}

// cluster is where egressd runs.
type cluster struct {
	env
	kubeconfig, context string
	// namespace is egressd's.
	namespace string
	timeout   time.Duration
}

// args are those of kubectl, with the flags that say which cluster.
func (c *cluster) args(args ...string) []string {
	var out []string
	if c.kubeconfig != "" {
		out = append(out, "--kubeconfig", c.kubeconfig)
	}
	if c.context != "" {
		out = append(out, "--context", c.context)
	}
	return append(out, args...)
}

// call runs kubectl and returns what it prints; the error has what it says.
func (c *cluster) call(ctx context.Context, stdin io.Reader, args ...string) ([]byte, error) {
	var out, said bytes.Buffer
	err := c.kubectl(ctx, call{c.args(args...), stdin, &out, &said})
	return out.Bytes(), failure(err, said.String())
}

// failure is the error of a call, with what kubectl said.
func failure(err error, said string) error {
	said = strings.TrimSpace(said)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, exec.ErrNotFound):
		return fmt.Errorf("%w: this plugin calls kubectl, which must be in the PATH", err)
	case said == "":
		return err
	}
	return errors.New(said)
}

// node is one that egressd runs on, by the pod that serves there.
type node struct {
	Name string `json:"node"`
	Pod  string `json:"pod"`
	made time.Time
	up   bool
}

// errNone says that there is no egressd.
var errNone = errors.New("no pod of egressd")

// nodes lists the nodes with egressd, by name. While an upgrade rolls, a node has two
// pods, of which the newest one that is ready serves.
func (c *cluster) nodes(ctx context.Context) ([]node, error) {
	data, err := c.call(ctx, nil, "get", "pods", "--namespace", c.namespace, "--selector", selector, "-o", "json")
	if err != nil {
		return nil, err
	}
	var list struct {
		Items []struct {
			Metadata struct {
				Name              string    `json:"name"`
				CreationTimestamp time.Time `json:"creationTimestamp"`
			} `json:"metadata"`
			Spec struct {
				NodeName string `json:"nodeName"`
			} `json:"spec"`
			Status struct {
				Conditions []struct {
					Type   string `json:"type"`
					Status string `json:"status"`
				} `json:"conditions"`
			} `json:"status"`
		} `json:"items"`
	}
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("read kubectl's answer: %w", err)
	}
	best := map[string]node{}
	for _, p := range list.Items {
		n := node{Name: p.Spec.NodeName, Pod: p.Metadata.Name, made: p.Metadata.CreationTimestamp}
		if n.Name == "" { // not scheduled yet
			continue
		}
		for _, cond := range p.Status.Conditions {
			n.up = n.up || cond.Type == "Ready" && cond.Status == "True"
		}
		old, ok := best[n.Name]
		if !ok || n.up && !old.up || n.up == old.up && n.made.After(old.made) {
			best[n.Name] = n
		}
	}
	var out []node
	for _, n := range best {
		out = append(out, n)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w in namespace %s; --egressd-namespace says where it is installed", errNone, c.namespace)
	}
	slices.SortFunc(out, func(a, b node) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

// nodeOf is the node of a pod, NAMESPACE/NAME, among those with egressd.
func (c *cluster) nodeOf(ctx context.Context, pod string) (node, error) {
	namespace, name, ok := strings.Cut(pod, "/")
	if !ok || namespace == "" || name == "" || strings.HasPrefix(namespace, "-") || strings.HasPrefix(name, "-") {
		return node{}, usageError{fmt.Errorf("--pod is NAMESPACE/NAME, not %q", pod)}
	}
	data, err := c.call(ctx, nil, "get", "pod", "--namespace", namespace, name, "-o", "jsonpath={.spec.nodeName}")
	if err != nil {
		return node{}, err
	}
	at := string(data)
	if at == "" {
		return node{}, fmt.Errorf("pod %s is on no node yet", pod)
	}
	all, err := c.nodes(ctx)
	if err != nil {
		return node{}, err
	}
	for _, n := range all {
		if n.Name == at {
			return n, nil
		}
	}
	return node{}, fmt.Errorf("%w on node %s, where pod %s is: it is under no policy that a daemon follows", errNone, at, pod)
}

// egressd are kubectl's arguments that run egressd in a node's pod.
func (c *cluster) egressd(n node, args ...string) []string {
	return c.args(append([]string{"exec", "--namespace", c.namespace, n.Pod, "--container", "egressd", "--", "/usr/bin/egressd"}, args...)...)
}

// atOnce bounds how many nodes are asked at a time.
const atOnce = 16

// answer is what egressd of one node says.
type answer struct {
	node
	out []byte
	err error
}

// each runs egressd on all nodes, and returns what each prints, in their order.
func (c *cluster) each(ctx context.Context, nodes []node, args ...string) []answer {
	out := make([]answer, len(nodes))
	slots := make(chan struct{}, atOnce)
	var all sync.WaitGroup
	for i, n := range nodes {
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			out[i] = c.one(ctx, n, args...)
		})
	}
	all.Wait()
	return out
}

// one runs egressd on a node.
func (c *cluster) one(ctx context.Context, n node, args ...string) answer {
	limited, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	var out, said bytes.Buffer
	err := failure(c.kubectl(limited, call{c.egressd(n, args...), nil, &out, &said}), said.String())
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("no answer within %s", c.timeout)
	}
	return answer{n, out.Bytes(), err}
}

// complain names the nodes that failed; the error is nil if none did.
func (c *cluster) complain(answers []answer) error {
	bad := 0
	for _, a := range answers {
		if a.err != nil {
			bad++
			fmt.Fprintf(c.stderr, "node %s (pod %s): %s\n", a.Name, a.Pod, quote.Lines(a.err.Error()))
		}
	}
	if bad == 0 {
		return nil
	}
	fmt.Fprintf(c.stderr, "%d of %d nodes did not answer\n", bad, len(answers))
	return errSaid
}
