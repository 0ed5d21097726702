// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/egressd/egressd/agent/control"
	"github.com/egressd/egressd/policy/source/kube"
)

// firstSync is how long a start waits for the API server before it goes on with the
// objects of the last good policy, and how often it says what it waits for when there
// is none.
const firstSync = 10 * time.Second

// kubernetes follows an API server. Its methods do nothing when it is nil.
type kubernetes struct {
	*kube.Informer
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
	// begun says that changes may be applied.
	begun atomic.Bool
}

// gcPercent is how much garbage may come to what lives before it is collected: a policy
// of thousands of objects lives for long, and as much again in garbage beside it, as is
// Go's default, is memory that a node does not have to spare.
const gcPercent = 50

// collectEarly sets that, unless GOGC says otherwise.
func collectEarly() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
}

// follow begins to follow the API server; nil: the options name none. reload applies
// what has changed.
func (o *Options) follow(reload func()) (*kubernetes, error) {
	if o.Kubernetes == nil {
		return nil, nil
	}
	collectEarly()
	of := *o.Kubernetes
	of.Log, of.GatewaySelector, of.FindCluster = o.Log, o.GatewaySelector, o.FindCluster
	source, err := kube.New(of)
	if err != nil {
		return nil, err
	}
	k := &kubernetes{Informer: source}
	k.ctx, k.cancel = context.WithCancel(context.Background())
	k.running.Go(func() {
		_ = k.Run(k.ctx, func() { // it ends with its context alone
			if k.begun.Load() {
				reload()
			}
		})
	})
	return k, nil
}

// objects are for the policy's control.
func (k *kubernetes) objects() control.Objects {
	if k == nil {
		return nil
	}
	return k
}

// first reads the first policy. Until the API server has told which objects there are
// it waits, unless those of the last good policy are known, or the daemon is to take
// over: nothing is in force that has only a part of them.
func (k *kubernetes) first(ctx context.Context, o Options, takesOver bool, read func() (control.Loaded, error)) (control.Loaded, error) {
	if k == nil {
		return read()
	}
	for {
		waits := k.Await(ctx, firstSync)
		l, err := read()
		if !errors.Is(err, control.ErrUnsynced) || takesOver {
			return l, errors.Join(err, onlyWith(err, waits))
		}
		if ctx.Err() != nil {
			return l, ctx.Err()
		}
		o.Log.Warn("egressd is not ready: it knows no policy before the API server has told which objects there are, and no last good policy is kept",
			"waits_for", waits, "traffic", withoutDaemon(o.PinDir))
	}
}

// onlyWith is a reason, where there is an error.
func onlyWith(err, reason error) error {
	if err == nil {
		return nil
	}
	return reason
}

// begin lets changes be applied, those before as well.
func (k *kubernetes) begin() {
	if k != nil {
		k.begun.Store(true)
		k.Again()
	}
}

// end stops following the API server.
func (k *kubernetes) end() {
	if k != nil {
		k.cancel()
		k.running.Wait()
	}
}

// report is for the status.
func (k *kubernetes) report() *kube.InformerStatus {
	if k == nil {
		return nil
	}
	s := k.Status()
	return &s
}
