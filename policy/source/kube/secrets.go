// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"slices"
	"strings"
)

// secrets are the Secrets that objects name, each of which is watched by itself: so
// egressd needs no right to read others, and the API server sends no others. Its
// fields are under the Informer's lock.
type secrets struct {
	// named counts the objects that name a Secret, by NAMESPACE/NAME.
	named   map[string]int
	watched map[string]*watchedSecret
	// changed has a value when named has other keys.
	changed chan struct{}
}

type watchedSecret struct {
	table  *table
	cancel func()
	ended  chan struct{}
}

// refer notes which Secrets an object names that was old; nil: there is none.
func (s *Informer) refer(old, now *object) {
	var was, is []string
	if old != nil {
		was = old.secrets
	}
	if now != nil {
		is = now.secrets
	}
	if slices.Equal(was, is) {
		return
	}
	for _, name := range is {
		s.secrets.named[name]++
	}
	for _, name := range was {
		if s.secrets.named[name]--; s.secrets.named[name] == 0 {
			delete(s.secrets.named, name)
		}
	}
	select {
	case s.secrets.changed <- struct{}{}:
	default:
	}
}

// followSecrets watches the Secrets that are named, until ctx ends. That one cannot be
// read holds nothing up: it is missed where it is named.
func (s *Informer) followSecrets(ctx context.Context) {
	for {
		s.mu.Lock()
		for name := range s.secrets.named {
			if s.secrets.watched[name] == nil {
				s.secrets.watched[name] = s.watchSecret(ctx, name)
			}
		}
		var gone []*watchedSecret
		for name, w := range s.secrets.watched {
			if s.secrets.named[name] == 0 {
				delete(s.secrets.watched, name)
				delete(s.failing, w.table.fullName())
				gone = append(gone, w)
			}
		}
		s.mu.Unlock()
		for _, w := range gone {
			w.end()
		}
		select {
		case <-ctx.Done():
			return
		case <-s.secrets.changed:
		}
	}
}

func (s *Informer) watchSecret(ctx context.Context, name string) *watchedSecret {
	namespace, name, _ := strings.Cut(name, "/")
	k := secretKind(namespace, name)
	w := &watchedSecret{table: newTable(s, k), ended: make(chan struct{})}
	ctx, w.cancel = context.WithCancel(ctx)
	s.running.Go(func() {
		defer close(w.ended)
		w.table.watch(ctx, s.clients.builtIn(k, ""))
	})
	return w
}

// end stops watching the Secret, and forgets it.
func (w *watchedSecret) end() {
	w.cancel()
	<-w.ended
	w.table.source.mu.Lock()
	defer w.table.source.mu.Unlock()
	w.table.empty()
}
