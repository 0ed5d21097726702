// SPDX-License-Identifier: Apache-2.0

package limits

import (
	"testing"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

func TestBudget(t *testing.T) {
	b := NewBudget(12)
	a, c, d := Owner{Workload: 1}, Owner{Workload: 2}, Owner{Layer: flow.Ingress, Workload: 1}
	count := func(h Owner) (n int64, why policy.Reason) {
		for why = b.Take(h, 1); why == ""; why = b.Take(h, 1) {
			n++
		}
		return n, why
	}
	if n, why := count(a); n != 6 || why != policy.ReasonQuota {
		t.Errorf("one alone: %d, %s; want half", n, why)
	}
	if n, why := count(c); n != 3 || why != policy.ReasonQuota {
		t.Errorf("the next: %d, %s; want half of the rest", n, why)
	}
	if n, why := count(d); n != 1 || why != policy.ReasonQuota {
		t.Errorf("one more: %d, %s", n, why)
	}
	if why := b.Take(Owner{Workload: 9}, 3); why != policy.ReasonOverload {
		t.Errorf("more than there is: %q", why)
	}
	b.Give(a, 6)
	b.Give(c, 3)
	b.Give(d, 1)
	if u := b.Use(); u.Used != 0 || len(b.held) != 0 {
		t.Errorf("%+v, %v", u, b.held)
	}
	l := &Lease{limits: &Limits{Descriptors: NewBudget(100), Memory: NewBudget(100)}}
	if err := l.Take(1, 51); err == nil || l.limits.Descriptors.Use().Used != 0 {
		t.Errorf("half a lease: %v, %+v", err, l.limits.Descriptors.Use())
	}
	if err := l.Take(2, 20); err != nil {
		t.Error(err)
	}
	l.Give(1, 10)
	l.End()
	l.End()
	l.Give(1, 10)
	if err := l.Take(1, 1); err == nil {
		t.Error("taken after the end")
	}
	if d, m := l.limits.Descriptors.Use(), l.limits.Memory.Use(); d.Used != 0 || m.Used != 0 {
		t.Errorf("left: %+v, %+v", d, m)
	}
}
