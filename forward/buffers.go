// SPDX-License-Identifier: Apache-2.0

package forward

import "sync"

// copyBuffers holds 32 KiB buffers for bodies.
type copyBuffers struct{ pool sync.Pool }

func (p *copyBuffers) get() *[]byte {
	if b, ok := p.pool.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, 32<<10)
	return &b
}
