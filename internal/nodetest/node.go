// SPDX-License-Identifier: Apache-2.0

// Package nodetest runs a whole Kubernetes node for tests: hack/kube/node/run
// starts it, in namespaces of its own, and its way out leads to the little
// internet of internal/world, whose servers know what they were asked and whose
// wire knows what left the node.
//
// The tests have the build tag "node": make test-node.
package nodetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/egressd/egressd/internal/kubetest"
	"github.com/egressd/egressd/internal/world"
)

const (
	// upWait bounds the start of a node; 10 s on a quiet machine.
	upWait = 5 * time.Minute
	// commandWait bounds a command on the node that nobody bounds otherwise.
	commandWait = 2 * time.Minute
)

// ToolImage is the image of hack/kube/tool, which every node has; it is the
// pods' sandbox as well.
const ToolImage = "localhost/tool:1"

// Node is a Kubernetes node.
type Node struct {
	// World is what is beyond the node's uplink.
	World *world.World
	// Mode is how it sees cgroups: hybrid or unified.
	Mode string

	script string
	dir    string
	bin    string // a directory of binaries that are made for it
}

// New starts a node, with the cluster's DNS server as a pod and an empty
// namespace "default". Close ends it; so does the end of this process.
func New(mode string) (n *Node, err error) {
	if err := buildPrograms(); err != nil {
		return nil, err
	}
	root, err := kubetest.Root()
	if err != nil {
		return nil, err
	}
	n = &Node{Mode: mode, script: filepath.Join(root, "hack", "kube", "node", "run")}
	if n.World, err = world.New(world.Options{}); err != nil {
		return nil, err
	}
	n.dir, n.bin = filepath.Join(n.World.Dir(), "node"), filepath.Join(n.World.Dir(), "bin")
	if err := n.up(); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

func (n *Node) up() error {
	for _, dir := range []string{n.dir, filepath.Join(n.dir, "images"), n.bin} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	if err := n.addToolImage(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), upWait)
	defer cancel()
	if _, err := n.run(ctx, "", "up", n.Mode); err != nil {
		return err
	}
	return n.startDNS()
}

// buildPrograms is a step of its own, since it takes minutes where they are not built.
func buildPrograms() error {
	_, err := kubetest.Programs("all")
	return err
}

// Close ends and removes all of it.
func (n *Node) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), commandWait)
	defer cancel()
	_, err := n.run(ctx, "", "down")
	return errors.Join(err, n.World.Close())
}

// Reboot ends everything on the node at once, as a lost power supply does, and
// starts it again with what is on its disk.
func (n *Node) Reboot() error {
	ctx, cancel := context.WithTimeout(context.Background(), upWait)
	defer cancel()
	_, err := n.run(ctx, "", "reboot")
	return err
}

// Kill ends one of the node's programs at once: kube-apiserver, kubelet...
func (n *Node) Kill(program string) error { return n.program("kill", program) }

// Start starts a program that was killed; it waits for those that say when
// they are ready.
func (n *Node) Start(program string) error { return n.program("start", program) }

func (n *Node) program(verb, program string) error {
	ctx, cancel := context.WithTimeout(context.Background(), commandWait)
	defer cancel()
	_, err := n.run(ctx, "", verb, program)
	return err
}

// Run runs a command on the node, as root, outside of all pods.
func (n *Node) Run(command ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandWait)
	defer cancel()
	return n.run(ctx, "", append([]string{"exec"}, command...)...)
}

// Kubectl runs kubectl on the node with input, and returns what it prints on
// its standard output. The error has what it prints on its standard error.
func (n *Node) Kubectl(input string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandWait)
	defer cancel()
	home := []string{"exec", "env", "HOME=" + n.dir, "KUBECONFIG=" + filepath.Join(n.dir, "kubeconfig", "admin"), "kubectl"}
	return n.run(ctx, input, append(home, args...)...)
}

// run calls the script.
func (n *Node) run(ctx context.Context, input string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, n.script, args...)
	cmd.Env = append(os.Environ(),
		"NODE_DIR="+n.dir,
		"NODE_NETNS="+n.World.Node.Path(),
		"NODE_IPS="+world.NodeV4+","+world.NodeV6,
		"NODE_DNS="+world.ResolverV4,
		"NODE_OWNER="+strconv.Itoa(os.Getpid()))
	cmd.Stdin = strings.NewReader(input)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	var out, problem bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problem
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(problem.String()))
	}
	return out.String(), nil
}

// Root is the node's root directory, as this process reaches it: /run, /var/lib,
// /var/log and /sys are others than the machine's.
func (n *Node) Root() (string, error) {
	pid, err := os.ReadFile(filepath.Join(n.dir, "pid", "init"))
	if err != nil {
		return "", err
	}
	return filepath.Join("/proc", strings.TrimSpace(string(pid)), "root"), nil
}

// Log is the end of what a program of the node printed.
func (n *Node) Log(program string) string {
	const bytes = 4 << 10
	text, err := os.ReadFile(filepath.Join(n.dir, "log", program))
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-bytes):])
}
