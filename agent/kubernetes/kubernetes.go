// SPDX-License-Identifier: Apache-2.0

// Package kubernetes follows an API server for the daemon: what a start waits for,
// and when changes of the objects are applied.
package kubernetes

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/egressd/egressd/agent/control"
	"github.com/egressd/egressd/policy/source/kube"
	"github.com/egressd/egressd/policy/source/kubestatus"
)

// firstSync is how long a start waits for the API server before it goes on with the
// objects of the last good policy, and how often it says what it waits for when there
// is none.
const firstSync = 10 * time.Second

// Informer knows the objects of an API server: it is a kube.Informer.
type Informer interface {
	control.Objects
	kubestatus.Pods
	// Run watches them until ctx ends, and calls changed when they have changed.
	Run(ctx context.Context, changed func()) error
	// Again has changed called anew.
	Again()
	// Await waits until all have been read once, at most for d. The error says which
	// have not been.
	Await(ctx context.Context, d time.Duration) error
	Status() kube.InformerStatus
	// Successor says whether another pod of this node takes the place of one.
	Successor(uid string) bool
}

// APIServer is an API server that is followed. The nil APIServer is none: its methods
// do nothing.
type APIServer struct {
	Informer
	log     *slog.Logger
	cancel  context.CancelFunc
	running sync.WaitGroup
	// begun says that changes may be applied.
	begun atomic.Bool
}

// Follow begins to follow an API server; End ends it. reload applies what has
// changed, once Begin was called.
func Follow(o kube.Options, reload func()) (*APIServer, error) {
	collectEarly()
	source, err := kube.New(o)
	if err != nil {
		return nil, err
	}
	return follow(source, reload, o.Log), nil
}

func follow(source Informer, reload func(), log *slog.Logger) *APIServer {
	ctx, cancel := context.WithCancel(context.Background())
	k := &APIServer{Informer: source, log: log, cancel: cancel}
	k.running.Go(func() {
		_ = source.Run(ctx, func() { // it ends with its context alone
			if k.begun.Load() {
				reload()
			}
		})
	})
	return k
}

// Objects are for the policy's control.
func (k *APIServer) Objects() control.Objects {
	if k == nil {
		return nil
	}
	return k
}

// First reads the first policy. Until the API server has told which objects there are
// it waits, unless those of the last good policy are known, or the daemon is to take
// over: nothing is in force that has only a part of them. traffic says what traffic
// can do while it waits.
func (k *APIServer) First(ctx context.Context, takesOver bool, traffic func() string, read func() (control.Loaded, error)) (control.Loaded, error) {
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
		k.log.Warn("egressd is not ready: it knows no policy before the API server has told which objects there are, and no last good policy is kept",
			"waits_for", waits, "traffic", traffic())
	}
}

// onlyWith is a reason, where there is an error.
func onlyWith(err, reason error) error {
	if err == nil {
		return nil
	}
	return reason
}

// Begin lets changes be applied, those before as well.
func (k *APIServer) Begin() {
	if k != nil {
		k.begun.Store(true)
		k.Again()
	}
}

// End stops following the API server.
func (k *APIServer) End() {
	if k != nil {
		k.cancel()
		k.running.Wait()
	}
}

// Successor says whether a pod of this node, given by its UID, has a successor there; ""
// is no pod.
func (k *APIServer) Successor(uid string) bool {
	return k != nil && uid != "" && k.Informer.Successor(uid)
}

// Report is for the status; nil: there is no API server.
func (k *APIServer) Report() *kube.InformerStatus {
	if k == nil {
		return nil
	}
	s := k.Status()
	return &s
}
