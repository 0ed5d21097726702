// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

const (
	// turnsAtOnce is how many kinds are read at once: a node asks for two dozen, and
	// the API server's Priority and Fairness has some hundred places for all nodes of a
	// cluster, which are one user to it, and refuses what comes beyond.
	turnsAtOnce = 2
	// turnLongest is how long one that is being read holds up others. That is longer
	// than a request waits in Priority and Fairness: with less, the nodes of a cluster
	// would ask for more the longer they wait.
	turnLongest = 20 * time.Second
	// pauseMost is how long all wait at most, unless the API server asks for more, and
	// up to as much again by chance.
	pauseMost = 5 * time.Second
)

// turns has the watches of an Informer take turns in asking the API server. When that
// fails or does not answer, all of them wait, longer each time: a cluster of nodes that
// each ask for two dozen kinds again and again would keep it from ever catching up. When
// it has too much to do for one of them, that one waits in its turn, see ask.
type turns struct {
	places chan struct{}

	mu       sync.Mutex
	failures int       // one after the other
	until    time.Time // when may be asked again
}

func newTurns() *turns { return &turns{places: make(chan struct{}, turnsAtOnce)} }

// take waits until it is one's turn, which ends when done is called, or after
// turnLongest. An error is that of ctx.
func (t *turns) take(ctx context.Context) (done func(), err error) {
	select {
	case t.places <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	done = sync.OnceFunc(func() { <-t.places })
	for {
		t.mu.Lock()
		pause := time.Until(t.until)
		t.mu.Unlock()
		if pause <= 0 {
			break
		}
		if !sleep(ctx, pause) {
			done()
			return nil, ctx.Err()
		}
	}
	time.AfterFunc(turnLongest, done)
	return done, nil
}

// refused has all wait: for as long as the API server asked for, 0: it did not, or as
// long as it takes by now, and up to as much again by chance.
func (t *turns) refused(asked time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if now.Before(t.until) {
		return // of those that asked at once one counts
	}
	pause := min(max(asked, retryFirst)<<t.failures, max(asked, pauseMost))
	if pause < pauseMost {
		t.failures++
	}
	t.until = now.Add(pause + rand.N(pause))
}

// answered notes that the API server does what it is asked.
func (t *turns) answered() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failures, t.until = 0, time.Time{}
}

// polite is the transport of an Informer's requests, which tells its turns how they go.
type polite struct {
	next  http.RoundTripper
	turns *turns
}

// RoundTrip does a request. The header by which the API server asks to be left alone is
// kept from client-go, which would ask for each kind by itself again and again, without
// jitter.
func (p polite) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := p.next.RoundTrip(r)
	switch {
	case err != nil:
		if r.Context().Err() == nil {
			p.turns.refused(0)
		}
	case res.StatusCode == http.StatusTooManyRequests:
		if to, ok := r.Context().Value(asksFor{}).(*time.Duration); ok {
			*to = retryAfter(res)
		}
		res.Header.Del("Retry-After")
	case fails(res.StatusCode):
		p.turns.refused(retryAfter(res))
		res.Header.Del("Retry-After")
	default:
		p.turns.answered()
	}
	return res, err
}

// retryAfter is for how long an answer asks to be left alone; 0: it does not.
func retryAfter(res *http.Response) time.Duration {
	seconds, _ := strconv.Atoi(res.Header.Get("Retry-After"))
	return time.Duration(min(max(seconds, 0), 60)) * time.Second
}

// fails says whether an answer is that of an API server that fails, or that has just
// started: then it does not know service accounts either.
func fails(status int) bool {
	return status == http.StatusUnauthorized || status >= http.StatusInternalServerError
}

// asksFor is the key of the *time.Duration in a request's context that is told for how
// long the API server asks to be left alone when it has too much to do.
type asksFor struct{}

// ask does a request in its turn, which it may keep until done is called, unless there is
// an error. A request that the API server has too much to do for (429, mostly of its
// Priority and Fairness) has not failed: it is done again after what Retry-After says, or
// longer each time, and up to as much again by chance. Meanwhile it keeps its place, so
// that a node never asks for more than turnsAtOnce, and then it is the turn of the other
// kinds. note is told how each request ended.
func (t *turns) ask(ctx context.Context, note func(error), request func(context.Context) error) (done func(), err error) {
	for again := 0; ; again++ {
		if done, err = t.take(ctx); err != nil {
			return nil, err
		}
		var asked time.Duration
		err = request(context.WithValue(ctx, asksFor{}, &asked))
		note(err)
		if err == nil {
			return done, nil
		}
		if !apierrors.IsTooManyRequests(err) {
			done()
			return nil, err
		}
		pause := max(asked, min(retryFirst<<min(again, 16), retryMost))
		slept := sleep(ctx, pause+rand.N(pause))
		if done(); !slept {
			return nil, ctx.Err()
		}
	}
}

// WrappedRoundTripper is for client-go, which closes idle connections by it.
func (p polite) WrappedRoundTripper() http.RoundTripper { return p.next }

// readOnce is a watch that holds a turn until it ends.
type readOnce struct {
	watch.Interface
	done func()
}

// Stop ends the watch.
func (w readOnce) Stop() {
	w.done()
	w.Interface.Stop()
}

// readStore is a store whose turn is over when it has been given all objects.
type readStore struct {
	cache.ReflectorStore
	done func()
}

// Replace is given all objects.
func (s *readStore) Replace(all []any, version string) error {
	if s.done != nil {
		s.done()
	}
	return s.ReflectorStore.Replace(all, version)
}

// Transformer is that of the store.
func (s *readStore) Transformer() cache.TransformFunc {
	if t, ok := s.ReflectorStore.(cache.TransformingStore); ok {
		return t.Transformer()
	}
	return nil
}
