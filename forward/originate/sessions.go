// SPDX-License-Identifier: Apache-2.0

package originate

import (
	"container/list"
	"crypto/sha256"
	"crypto/tls"
	"sync"
)

// sessionKey is for whom sessions may be resumed: one workload, to one name, with the
// same settings and certificates. So no workload goes on where another one's client
// certificate was shown.
type sessionKey struct {
	holder, transport, name, protocol string

	material [sha256.Size]byte
}

const (
	// maxSessions is of how many keys sessions are kept.
	maxSessions = 1024
	// sessionsEach is how many of each.
	sessionsEach = 4
)

// sessions are the caches of sessions by their keys; of those that were not used for
// the longest nothing is kept.
type sessions struct {
	mu    sync.Mutex
	by    map[sessionKey]*list.Element
	order list.List // of *kept, the latest first
}

type kept struct {
	key   sessionKey
	cache tls.ClientSessionCache
}

func (s *sessions) of(key sessionKey) tls.ClientSessionCache {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.by[key]; e != nil {
		s.order.MoveToFront(e)
		return e.Value.(*kept).cache
	}
	if s.by == nil {
		s.by = map[sessionKey]*list.Element{}
	}
	k := &kept{key, tls.NewLRUClientSessionCache(sessionsEach)}
	s.by[key] = s.order.PushFront(k)
	if s.order.Len() > maxSessions {
		last := s.order.Back()
		s.order.Remove(last)
		delete(s.by, last.Value.(*kept).key)
	}
	return k.cache
}
