// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"github.com/egressd/egressd/agent/teardown"
	"github.com/egressd/egressd/internal/gate"
)

// rollBack takes back what a start did that failed. After it only Close may be
// called.
func (a *Agent) rollBack() error {
	b := &a.begun
	b.undone = true
	var t teardown.Teardown
	if a.datapath != nil {
		t.Detach = a.datapath.Rollback
	}
	if b.first && b.own != "" {
		t.Cgroups = b.leaveOwn
		if a.opts.Daemon {
			t.Gates = func() error { return gate.RemoveBut(b.gates) }
		}
	}
	return t.Run()
}
