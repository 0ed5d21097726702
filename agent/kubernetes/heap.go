// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"os"
	"runtime/debug"
)

// GCPercent is how much garbage may come to what lives before it is collected: a policy
// of thousands of objects lives for long, and as much again in garbage beside it, as is
// Go's default, is memory that a node does not have to spare. It is no fixed limit, which
// would keep a cluster of more objects collecting all the time.
const GCPercent = 30

// collectEarly sets that, unless GOGC says otherwise.
func collectEarly() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(GCPercent)
	}
}
