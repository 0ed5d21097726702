// SPDX-License-Identifier: Apache-2.0

package control

import (
	"runtime/debug"

	"github.com/egressd/egressd/policy/load"
)

// Loaded is the outcome of reading the configuration.
type Loaded = load.Result

// bigFiles is how many bytes of files that were decoded are worth to clean up behind.
const bigFiles = 4 << 20

// release gives the memory back that loading big files took: it is several times what the
// policy itself needs, and nothing else will need it soon. It is no part of a change, and
// does nothing after small ones, however long these took: to return memory holds up
// whoever needs some meanwhile.
func (c *Control) release() {
	c.config.mu.Lock()
	decoded := c.config.reader.Decoded()
	big := decoded-c.config.released > bigFiles
	if big {
		c.config.released = decoded
	}
	c.config.mu.Unlock()
	if big {
		debug.FreeOSMemory()
	}
}
