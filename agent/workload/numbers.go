// SPDX-License-Identifier: Apache-2.0

package workload

import "github.com/egressd/egressd/loader"

// numbers are those of workloads in the kernel's tables, by name. When all are given, the one
// whose workload is gone the longest is given again: pods come and go for years.
type numbers struct {
	// round counts the looks for cgroups.
	round uint64
	last  uint32
	by    map[string]*numbered
	names map[uint32]string
}

type numbered struct {
	number uint32
	round  uint64 // when it was asked for last
}

func newNumbers() numbers {
	return numbers{last: Probe, by: map[string]*numbered{}, names: map[uint32]string{}}
}

// of returns the number of a workload; 0: there is none left.
func (n *numbers) of(name string) uint32 {
	one, ok := n.by[name]
	if !ok {
		if one = n.next(); one == nil {
			return 0
		}
		n.by[name], n.names[one.number] = one, name
	}
	one.round = n.round
	return one.number
}

// next returns a number that nobody has, nil if there is none.
func (n *numbers) next() *numbered {
	if n.last+1 < loader.MaxWorkloads {
		n.last++
		return &numbered{number: n.last}
	}
	oldest := ""
	for name, one := range n.by {
		// What was asked for a round ago may be in the kernel's tables.
		if one.round+1 < n.round && (oldest == "" || one.round < n.by[oldest].round) {
			oldest = name
		}
	}
	if oldest == "" {
		return nil
	}
	one := n.by[oldest]
	delete(n.by, oldest)
	return &numbered{number: one.number}
}

// nameOf is the workload that has, or had, a number; "": none.
func (n *numbers) nameOf(number uint32) string { return n.names[number] }
