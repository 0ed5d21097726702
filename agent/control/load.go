// SPDX-License-Identifier: Apache-2.0

package control

import (
	"runtime/debug"
	"time"

	"github.com/egressd/egressd/policy/load"
)

// Loaded is the outcome of reading the configuration.
type Loaded = load.Result

// bigPolicy is how long loading takes when it is worth to clean up behind it.
const bigPolicy = 100 * time.Millisecond

// release gives the memory back that loading a big policy took: it is several
// times what the policy itself needs, and nothing else will need it soon.
func release(t load.Took) {
	if t.Read+t.Decode+t.Compile > bigPolicy {
		debug.FreeOSMemory()
	}
}
