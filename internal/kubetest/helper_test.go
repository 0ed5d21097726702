// SPDX-License-Identifier: Apache-2.0

package kubetest

import (
	"strconv"
	"testing"
	"time"
)

// eventually asks until there is no error.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(readyWait); time.Now().Before(deadline); time.Sleep(readyEvery) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatal(err)
}

func pidOf(p *process) string { return strconv.Itoa(p.cmd.Process.Pid) }
