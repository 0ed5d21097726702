// SPDX-License-Identifier: Apache-2.0

package learned

import (
	"net/netip"
	"slices"
	"sync"
)

// Bounds of what is noted of one workload.
const (
	maxNoted      = 8192 // pairs of name and address
	maxNotedNames = 32   // names of one address
)

// Note records that a process of a workload was told the addresses of a name
// in audit mode, where names that would be denied are answered as well. It
// opens nothing, and nothing is decided by it: it says what the connection
// that follows is for. The oldest are forgotten.
func (n *Names) Note(workload, name string, pid int, addrs []netip.Addr) {
	n.noted.mu.Lock()
	defer n.noted.mu.Unlock()
	w := n.noted.by[workload]
	if w == nil {
		w = &notes{by: map[netip.Addr][]note{}}
		n.noted.by[workload] = w
	}
	for _, addr := range addrs {
		w.add(addr.Unmap(), note{name, pid})
	}
}

// Noted returns the names that an address may stand for in a workload: those
// that the process itself was told the address for, or else any process, the
// latest first.
func (n *Names) Noted(workload string, addr netip.Addr, pid int) []string {
	n.noted.mu.Lock()
	defer n.noted.mu.Unlock()
	w := n.noted.by[workload]
	if w == nil {
		return nil
	}
	var own, all []string
	for _, one := range slices.Backward(w.by[addr.Unmap()]) {
		if !slices.Contains(all, one.name) {
			all = append(all, one.name)
		}
		if one.pid == pid && !slices.Contains(own, one.name) {
			own = append(own, one.name)
		}
	}
	if len(own) > 0 {
		return own
	}
	return all
}

// noted is what was told in audit mode, by workload.
type noted struct {
	mu sync.Mutex
	by map[string]*notes
}

type note struct {
	name string
	pid  int
}

// notes are those of one workload; those of an address and the addresses are
// in the order of the last question.
type notes struct {
	by    map[netip.Addr][]note
	order []netip.Addr
	count int
}

func (w *notes) add(addr netip.Addr, one note) {
	list, known := w.by[addr]
	before := len(list)
	list = slices.DeleteFunc(list, func(o note) bool { return o == one })
	if len(list) >= maxNotedNames {
		list = slices.Delete(list, 0, 1)
	}
	w.count += len(list) + 1 - before
	if !known {
		w.order = append(w.order, addr)
	}
	w.by[addr] = append(list, one)
	for w.count > maxNoted {
		w.count -= len(w.by[w.order[0]])
		delete(w.by, w.order[0])
		w.order = w.order[1:] // appending moves what is left to a new array
	}
}
