// SPDX-License-Identifier: Apache-2.0

package relay

import "sync"

// CopyBuffers holds 32 KiB buffers for bodies.
type CopyBuffers struct{ pool sync.Pool }

// Get returns one, to be put back.
func (p *CopyBuffers) Get() *[]byte {
	if b, ok := p.pool.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, 32<<10)
	return &b
}

// Put takes one back.
func (p *CopyBuffers) Put(b *[]byte) { p.pool.Put(b) }
