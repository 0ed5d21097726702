// SPDX-License-Identifier: Apache-2.0

package learned

import (
	"net/netip"
	"time"

	"github.com/egressd/egressd/policy"
)

// maxLately bounds the addresses of a policy that are remembered after they
// were closed. The oldest make room.
const maxLately = 1024

// lately remembers what addresses were learned for until their time was over:
// who is refused there afterwards wants to know why.
type lately struct {
	by    map[netip.Addr]formerName
	order []netip.Addr // a ring, once it is full
	next  int
}

type formerName struct {
	name  string
	until time.Time // when it was closed
}

// note remembers that addr was closed for name.
func (l *lately) note(addr netip.Addr, name string, now time.Time) {
	if l.by == nil {
		l.by = map[netip.Addr]formerName{}
	}
	if _, ok := l.by[addr]; !ok {
		if len(l.order) < maxLately {
			l.order = append(l.order, addr)
		} else {
			delete(l.by, l.order[l.next])
			l.order[l.next] = addr
			l.next = (l.next + 1) % maxLately
		}
	}
	l.by[addr] = formerName{name, now}
}

// Lately returns the name that an address was learned for last, and when that
// ended; false when it is not known, or the address is learned for another name.
func (n *Names) Lately(id policy.PolicyID, addr netip.Addr) (name string, until time.Time, ok bool) {
	t := n.peek(id)
	if t == nil || len(n.NamesOf(id, addr)) > 0 {
		return "", time.Time{}, false
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	f, ok := t.lately.by[addr.Unmap()]
	return f.name, f.until, ok
}
