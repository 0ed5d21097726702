// SPDX-License-Identifier: Apache-2.0

package resources

import (
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/learned"
	"github.com/egressd/egressd/internal/memcg"
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
		LearnedBounds(&got, addresses)
		if got.MaxOpenings != want.MaxOpenings || got.MaxNodeOpenings != want.MaxNodeOpenings ||
			got.MaxServerNames != want.MaxServerNames || got.MaxNodeServerNames != want.MaxNodeServerNames {
			t.Errorf("of %d addresses: %+v, want %+v", addresses, got, want)
		}
	}
}

// TestLimitHeap: the limit that leaves least is the one that counts, and one that
// cannot be read takes none of the others away.
func TestLimitHeap(t *testing.T) {
	const mb = 1 << 20
	unread := errors.New("unreadable")
	for _, c := range []struct {
		what   string
		limits []memcg.Limit
		err    error
		want   int64 // in MiB; 0: none is set
		says   string
	}{
		{"no limit", nil, nil, 0, "limit=none"},
		{"the least", []memcg.Limit{{Dir: "/a", Max: 210 * mb}, {Dir: "/a/b", Max: 110 * mb}}, nil, 90, "/a/b"},
		{"one unread", []memcg.Limit{{Dir: "/a", Max: 110 * mb}}, unread, 90, "its heap may grow beyond them"},
		{"all unread", nil, unread, 0, "its heap may grow beyond them"},
	} {
		var said strings.Builder
		var got int64
		limitHeap(slog.New(slog.NewTextHandler(&said, nil)), 10*mb, func() ([]memcg.Limit, error) { return c.limits, c.err }, func(n int64) { got = n })
		if (got+mb/2)/mb != c.want || !strings.Contains(said.String(), c.says) {
			t.Errorf("%s: %d MiB, said %s", c.what, got/mb, said.String())
		}
	}
}
