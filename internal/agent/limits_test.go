// SPDX-License-Identifier: Apache-2.0

package agent

import "testing"

func TestForwardDescriptors(t *testing.T) {
	for files, want := range map[uint64]int64{
		256: 192, 1024: 768, 4096: 3072, 20_000: 18_976, 524_288: 523_264,
		1 << 62: maxDescriptors, 0: 0,
	} {
		if got := forwardDescriptors(files); got != want {
			t.Errorf("of %d files %d, want %d", files, got, want)
		}
	}
	if memoryLimit() <= 0 {
		t.Error("no memory")
	}
}
