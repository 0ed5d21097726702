// SPDX-License-Identifier: Apache-2.0

package capacity

import (
	"log/slog"
	"os"
	"testing"

	"github.com/egressd/egressd/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// TestDivide: the parts never add up to more than there is, DNS has some of it
// however little that is, and most of a great deal is for forwarding.
func TestDivide(t *testing.T) {
	for _, files := range []uint64{64, 128, 256, 400, 1000, 1024, 4096, 20_000, 524_288, 1 << 62} {
		p := Capacity{Files: files, Memory: 1 << 30, Ports: 28232}.Divide()
		sum := p.Descriptors + int64(p.Queries+p.Conns)
		own := int64(min(files, maxDescriptors)) - sum
		if own < 0 || own < min(ownDescriptors, int64(min(files, maxDescriptors)/2)) {
			t.Errorf("of %d files %+v: %d are left", files, p, own)
		}
		if p.QueriesEach < 1 || p.ConnsEach < 1 || p.Descriptors < 1 {
			t.Errorf("of %d files %+v", files, p)
		}
		if files >= 4096 && p.Descriptors < int64(min(files, maxDescriptors))/2 {
			t.Errorf("of %d files only %d are for forwarding", files, p.Descriptors)
		}
	}
	if p := (Capacity{Files: 1 << 20, Memory: 1 << 40, Ports: 28232}).Divide(); p.Queries != 1024 || p.QueriesEach != 256 || p.Conns != 512 || p.ConnsEach != 64 || p.Ports != 14116 {
		t.Errorf("with enough of all: %+v", p)
	}
	for memory, want := range map[int64]int64{
		1 << 30: 512 << 20, 200 << 20: 100 << 20, 130 << 20: 65 << 20, 100 << 20: 36 << 20, 64 << 20: minMemory,
	} {
		if p := (Capacity{Files: 1024, Memory: memory}).Divide(); p.Memory != want {
			t.Errorf("of %d MB %d, want %d", memory>>20, p.Memory, want)
		}
	}
}

func TestPorts(t *testing.T) {
	for _, c := range []struct {
		text, reserved string
		want           int
	}{
		{"32768\t60999\n", "\n", 28232},
		{"32768\t60999\n", "15001,40000-40009,60999\n", 28221},
		{"1024 1033", "1-2000", 0},
		{"1024 1033", "1000-1026,1033-4000", 6},
	} {
		if n, err := countPorts([]byte(c.text), []byte(c.reserved)); n != c.want || err != nil {
			t.Errorf("%q without %q: %d, %v; want %d", c.text, c.reserved, n, err, c.want)
		}
	}
	for _, bad := range [][2]string{{"", ""}, {"x y", ""}, {"1 2", "a-b"}, {"1 2", "7-"}} {
		if n, err := countPorts([]byte(bad[0]), []byte(bad[1])); err == nil {
			t.Errorf("%q: %d, want an error", bad, n)
		}
	}
	if c := Measure(slog.New(slog.DiscardHandler)); c.Ports <= 0 || c.Files == 0 || c.Memory <= 0 {
		t.Errorf("%+v", c)
	}
}
