// SPDX-License-Identifier: Apache-2.0

package kubestatus

import (
	"fmt"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/types"

	"github.com/egressd/egressd/policy"
)

// Bounds of Events: of one pod, of the node, and of what is remembered.
const (
	podBurst, nodeBurst        = 10, 50
	podEvery, nodeEvery        = time.Minute, 5 * time.Second
	refusalBurst               = 25
	refusalEvery               = 5 * time.Second
	maxSaid, maxSaidEach       = 4096, 128
	flushEvery                 = 30 * time.Second
	repeatEvery, saidForgotten = 10 * time.Minute, time.Hour
)

// eventKey says which denials have one Event.
type eventKey struct {
	pod    string
	uid    types.UID
	target string // "": what has no Event of its own
	reason policy.Reason
	audit  bool
}

// rest is the key of what has no Event of its own.
func (k eventKey) rest() eventKey { return eventKey{pod: k.pod, uid: k.uid, audit: k.audit} }

func (k eventKey) text() string { return fmt.Sprintf("%s\x00%s\x00%t", k.target, k.reason, k.audit) }

// said is an Event that was written.
type said struct {
	key          eventKey
	action, note string
	count, told  int32 // denials, and the number that the API server has
	first, last  time.Time
	toldAt       time.Time
}

// table knows the Events of the last hour. It is used by one goroutine.
type table struct {
	said     map[eventKey]*said
	pods     map[types.UID]*podShare
	node     *rate.Limiter
	refusals *rate.Limiter
}

// podShare is what a pod may still have told.
type podShare struct {
	limit *rate.Limiter
	said  int
	last  time.Time
}

func newTable() *table {
	return &table{
		said: map[eventKey]*said{}, pods: map[types.UID]*podShare{},
		node: rate.NewLimiter(rate.Every(nodeEvery), nodeBurst), refusals: rate.NewLimiter(rate.Every(refusalEvery), refusalBurst),
	}
}

// again counts denials of which there is an Event.
func (t *table) again(k eventKey, n int32, now time.Time) bool {
	s := t.said[k]
	if s == nil {
		return false
	}
	s.count = max(s.count+n, s.count) // at the end of int32 it stays
	s.last = now
	return true
}

// room says whether a denial may have an Event of its own now.
func (t *table) room(k eventKey, now time.Time) bool {
	p := t.pods[k.uid]
	if p == nil {
		if len(t.pods) >= maxSaid {
			return false
		}
		p = &podShare{limit: rate.NewLimiter(rate.Every(podEvery), podBurst)}
		t.pods[k.uid] = p
	}
	p.last = now
	if p.said >= maxSaidEach || len(t.said) >= maxSaid || p.limit.TokensAt(now) < 1 || t.node.TokensAt(now) < 1 {
		return false
	}
	return p.limit.AllowN(now, 1) && t.node.AllowN(now, 1)
}

// full says that nothing more is remembered, whatever it is.
func (t *table) full() bool { return len(t.said) >= 2*maxSaid }

// add remembers an Event.
func (t *table) add(s *said) {
	if t.said[s.key] == nil && t.pods[s.key.uid] != nil {
		t.pods[s.key.uid].said++
	}
	t.said[s.key] = s
}

// due returns the Events whose numbers are to be brought up to date, and forgets
// those of which nothing was heard for long.
func (t *table) due(now time.Time) []*said {
	var out []*said
	for k, s := range t.said {
		switch {
		case s.count > s.told && now.Sub(s.toldAt) >= repeatEvery:
			out = append(out, s)
		case s.count == s.told && now.Sub(s.last) >= saidForgotten:
			delete(t.said, k)
			if p := t.pods[k.uid]; p != nil {
				p.said--
			}
		}
	}
	for uid, p := range t.pods {
		if p.said == 0 && now.Sub(p.last) >= saidForgotten {
			delete(t.pods, uid)
		}
	}
	return out
}
