// SPDX-License-Identifier: Apache-2.0

package kubestatus

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordination "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/klog/v2"
)

// LeaseName is the Lease of the one daemon of a cluster that writes statuses.
const LeaseName = "egressd-status"

// Election are the times of an election. A writer that is gone is replaced within
// two Checks and a Duration.
type Election struct {
	// Duration is how long a Lease that nobody renews is respected, Renew how long
	// its holder tries to renew it, Retry how often.
	Duration, Renew, Retry time.Duration
	// Check is how often the others look for a holder that is gone; a random half
	// of it more or less. Many nodes look, one renews. A daemon that has started
	// looks sooner at first: it may be the heir of the holder.
	Check time.Duration
}

const (
	// firstCheck is how long a daemon that has started waits before it looks again;
	// each wait is twice the one before, up to Election.Check.
	firstCheck = time.Second
	// settling is how long an API server that has just started may refuse what it
	// has not read the roles of yet.
	settling = 10 * time.Second
)

// DefaultElection is for clusters of any size: of 5,000 nodes 83 a second look.
var DefaultElection = Election{Duration: time.Minute, Renew: 45 * time.Second, Retry: 15 * time.Second, Check: time.Minute}

// election elects the one that works.
type election struct {
	leases    coordination.LeasesGetter
	namespace string
	node      string
	identity  string // is node, "_" and a number
	times     Election
	log       *slog.Logger
	leads     atomic.Bool
	// working is held by the work, of which there is one at a time.
	working sync.Mutex
	// seen is the last holder and renewal, and when that was new.
	seen   string
	seenAt time.Time
	// refusedAt is since when the API server has refused the Lease.
	refusedAt time.Time
	// alone says that no other daemon of this node lives: a Lease that one has is
	// one's that was killed. stood says that this daemon has stood for election,
	// warned that what is wrong with the Lease was said.
	alone, stood, warned bool
}

func newElection(leases coordination.LeasesGetter, namespace, node string, times Election, log *slog.Logger) *election {
	if times == (Election{}) {
		times = DefaultElection
	}
	return &election{leases: leases, namespace: namespace, node: node, identity: fmt.Sprintf("%s_%08x", node, rand.Uint32()), times: times, log: log}
}

// run works whenever this daemon is the elected one, until ctx is done and the
// work has ended.
func (e *election) run(ctx context.Context, work func(context.Context)) {
	every := min(firstCheck, e.times.Check)
	for ctx.Err() == nil {
		if e.vacant(ctx) {
			e.elect(ctx, work)
		}
		wait := time.NewTimer(every/2 + rand.N(every))
		every = min(2*every, e.times.Check)
		select {
		case <-ctx.Done():
		case <-wait.C:
		}
		wait.Stop()
	}
	e.working.Lock() // what was begun has ended
	defer e.working.Unlock()
}

// vacant says whether nobody has the Lease, as far as can be seen: clocks of
// other nodes are not believed.
func (e *election) vacant(ctx context.Context) bool {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	// What the API server has in memory is new enough to look.
	l, err := e.leases.Leases(e.namespace).Get(call, LeaseName, meta.GetOptions{ResourceVersion: "0"})
	switch {
	case errors.IsNotFound(err):
		if e.stood {
			e.warn("the Lease cannot be made")
		}
		return true
	case errors.IsForbidden(err):
		if e.refusedAt.IsZero() {
			e.refusedAt = time.Now()
		}
		if time.Since(e.refusedAt) >= min(settling, e.times.Check) {
			e.warn(err.Error())
		}
		return false
	case err != nil:
		e.log.Debug("the Lease of the one that writes statuses could not be read; traffic is not concerned", "error", err)
		return false
	case l.Spec.HolderIdentity == nil || *l.Spec.HolderIdentity == "":
		return true
	case e.alone && strings.HasPrefix(*l.Spec.HolderIdentity, e.node+"_"):
		l.Spec.HolderIdentity = new(string)
		_, err := e.leases.Leases(e.namespace).Update(call, l, meta.UpdateOptions{})
		return err == nil // else it is not what it was, and is looked at again
	}
	e.refusedAt = time.Time{}
	seen := fmt.Sprint(*l.Spec.HolderIdentity, l.Spec.RenewTime)
	if seen != e.seen {
		e.seen, e.seenAt = seen, time.Now()
	}
	return time.Since(e.seenAt) >= e.times.Duration
}

// warn says once that there is no election.
func (e *election) warn(why string) {
	if !e.warned {
		e.warned = true
		e.log.Warn("this daemon cannot be the one that writes statuses: if that is so for all, objects say nothing of egressd; traffic is not concerned. Is there the namespace, and egressd's Role in it?",
			"lease", e.namespace+"/"+LeaseName, "error", why)
	}
}

// elect stands for election, and works if it wins and for as long as it is the
// elected one. It returns when another one is, or nobody became it in time.
func (e *election) elect(ctx context.Context, work func(context.Context)) {
	var won atomic.Bool
	e.stood = true
	// The Lease is released when the work has ended, not before.
	life, end := context.WithCancel(klog.NewContext(context.WithoutCancel(ctx), logr.Discard()))
	defer end()
	unlessWon := func() {
		if !won.Load() {
			end()
		}
	}
	defer context.AfterFunc(ctx, unlessWon)()
	defer time.AfterFunc(e.times.Duration+3*e.times.Retry, unlessWon).Stop()
	first := atomic.Pointer[string]{}
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Name: LeaseName, LeaseDuration: e.times.Duration, RenewDeadline: e.times.Renew, RetryPeriod: e.times.Retry, ReleaseOnCancel: true,
		Lock: &resourcelock.LeaseLock{
			LeaseMeta: meta.ObjectMeta{Namespace: e.namespace, Name: LeaseName}, Client: e.leases,
			LockConfig: resourcelock.ResourceLockConfig{Identity: e.identity},
		},
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(lead context.Context) {
				won.Store(true)
				defer end()
				e.work(ctx, lead, work)
			},
			OnStoppedLeading: func() {},
			OnNewLeader: func(holder string) {
				if holder != e.identity && !first.CompareAndSwap(nil, &holder) && *first.Load() != holder {
					end() // somebody was faster
				}
			},
		},
	})
	if err != nil {
		e.log.Error("no statuses are written: the election has wrong times", "error", err)
		return
	}
	elector.Run(life)
}

// work works while ctx and lead last.
func (e *election) work(ctx, lead context.Context, work func(context.Context)) {
	e.working.Lock()
	defer e.working.Unlock()
	lead, stop := context.WithCancel(lead)
	defer stop()
	defer context.AfterFunc(ctx, stop)()
	if lead.Err() != nil {
		return
	}
	e.log.Info("this daemon writes the statuses of the cluster's objects now", "lease", e.namespace+"/"+LeaseName, "identity", e.identity)
	e.leads.Store(true)
	defer e.leads.Store(false)
	work(lead)
}
