// SPDX-License-Identifier: Apache-2.0

//go:build node

package nodetest

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// more is nil if a count has grown.
func more(now, before int) error {
	if now <= before {
		return fmt.Errorf("the count is still %d", now)
	}
	return nil
}

// started waits until a pod's load has begun, and says when it did.
func started(t *testing.T, n *Node, namespace, pod string, within time.Duration) time.Time {
	t.Helper()
	var at time.Time
	Eventually(t, within, func() (err error) {
		out, err := n.Kubectl("", "-n", namespace, "logs", pod, "--timestamps")
		if err != nil {
			return err
		}
		for line := range strings.Lines(out) {
			stamp, text, _ := strings.Cut(strings.TrimSpace(line), " ")
			if text == "started" {
				at, err = time.Parse(time.RFC3339Nano, stamp)
				return err
			}
		}
		return fmt.Errorf("the load of %s has not begun: %q", pod, out)
	})
	return at
}
