// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"testing"

	"github.com/egressd/egressd/internal/learned"
	"github.com/egressd/egressd/loader"
)

func TestHeapLimit(t *testing.T) {
	const mb = 1 << 20
	for _, c := range []struct{ limit, tables, want uint64 }{
		{110 * mb, 10 * mb, 90 * mb}, {64 * mb, 14 * mb, 45 * mb}, {20 * mb, 14 * mb, 16 * mb}, {10 * mb, 14 * mb, 16 * mb},
	} {
		got := heapLimit(c.limit, c.tables)
		if diff := got - int64(c.want); diff < -16 || diff > 16 {
			t.Errorf("of %d bytes beside %d: %d, want %d", c.limit, c.tables, got, c.want)
		}
	}
}

// TestLearnedBounds: the shares are those that the documentation says, and smaller
// tables have smaller ones.
func TestLearnedBounds(t *testing.T) {
	for addresses, want := range map[int]learned.Options{
		0:                   {MaxOpenings: 1 << 17, MaxNodeOpenings: 1 << 19, MaxServerNames: 1 << 15, MaxNodeServerNames: 1 << 17},
		loader.MinAddresses: {MaxOpenings: 512, MaxNodeOpenings: 2048, MaxServerNames: 128, MaxNodeServerNames: 512},
	} {
		var got learned.Options
		learnedBounds(&got, addresses)
		if got.MaxOpenings != want.MaxOpenings || got.MaxNodeOpenings != want.MaxNodeOpenings ||
			got.MaxServerNames != want.MaxServerNames || got.MaxNodeServerNames != want.MaxNodeServerNames {
			t.Errorf("of %d addresses: %+v, want %+v", addresses, got, want)
		}
	}
}
