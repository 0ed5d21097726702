// SPDX-License-Identifier: Apache-2.0

package nodetest

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/egressd/egressd/internal/kubetest"
)

// bootUnit is what an operator installs on a node.
const bootUnit = "deploy/systemd/egressd-boot.service"

var (
	execStart = regexp.MustCompile(`(?m)^ExecStart=/usr/local/bin/egressd (.+)$`)
	execPre   = regexp.MustCompile(`(?m)^ExecStartPre=/bin/mkdir -p /sys/fs/cgroup/kubepods\.slice$`)
)

// HoldAtBoot has the node start egressd before its kubelet from the next reboot on,
// as egressd-boot.service does; LoadEgressd has built it. The node has no service
// manager: a script does what the unit says, in a cgroup of its own.
func (n *Node) HoldAtBoot() error {
	root, err := kubetest.Root()
	if err != nil {
		return err
	}
	unit, err := os.ReadFile(filepath.Join(root, bootUnit))
	if err != nil {
		return err
	}
	args := execStart.FindSubmatch(unit)
	if args == nil || !execPre.Match(unit) {
		return fmt.Errorf("%s does not start egressd as expected", bootUnit)
	}
	// The node's kubelet has the driver cgroupfs.
	script := strings.NewReplacer(
		"TREE", map[string]string{"hybrid": "/sys/fs/cgroup/unified", "unified": "/sys/fs/cgroup"}[n.Mode],
		"EGRESSD", filepath.Join(n.bin, "egressd"), "ARGUMENTS", string(args[1]), "BOOTED", filepath.Join(n.dir, "booted"),
	).Replace(`#!/bin/sh
set -e
mkdir -p TREE/kubepods TREE/egressd-boot
{ until curl -fs -o /dev/null http://127.0.0.1:15021/healthz/ready; do sleep 0.05; done; touch BOOTED; } &
echo $$ >TREE/egressd-boot/cgroup.procs
exec EGRESSD ARGUMENTS
`)
	return os.WriteFile(filepath.Join(n.dir, "boot"), []byte(script), 0o755)
}

// LeaveAtBoot undoes HoldAtBoot.
func (n *Node) LeaveAtBoot() error { return os.Remove(filepath.Join(n.dir, "boot")) }
