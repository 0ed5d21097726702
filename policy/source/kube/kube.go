// SPDX-License-Identifier: Apache-2.0

// Package kube is the policy that a Kubernetes API server has: it watches the
// objects that egressd acts on and gives each of them as a file of its own to the
// reader of policies, beside the files on disk. Pods of its node become Workloads.
package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio"
)

// Options of an Informer.
type Options struct {
	// Config says where the API server is, and who asks it; see Config.
	Config *rest.Config
	// Node is the name of the node whose pods are watched.
	Node string
	Log  *slog.Logger
	// Cgroups are the paths, below the root of the cgroup tree, that a pod's cgroup
	// may have, nil: there is none; without it those of podcgroup.
	Cgroups func(uid types.UID, qos core.PodQOSClass) []string
	// Mode is that of pods that no label says anything of.
	Mode policy.Mode
	// SystemNamespaces are those whose pods are in mode off, unless a label says
	// something else.
	SystemNamespaces []string
	// FindCluster reads what says which networks are inside of the cluster.
	FindCluster bool
	// GatewaySelector are the labels of this node's gateway: the Secrets of other
	// gateways are not read.
	GatewaySelector map[string]string
	// Spread is over how long first requests are put off by chance, so that nodes that
	// start at once do not ask all at once; 0: they are not.
	Spread time.Duration
}

// DefaultSpread is a Spread that nobody waits for: a node that starts takes longer.
const DefaultSpread = time.Second

const (
	// debounce is how long the objects must not have changed for, before who
	// follows them is told: several events of one change are one.
	debounce = 3 * time.Millisecond
	// patience bounds how long that is put off while they change all the time: half of
	// the time goes into it then, at most.
	patience = 500 * time.Millisecond
)

// Informer watches an API server. It is safe for concurrent use.
type Informer struct {
	o       Options
	clients clients
	turns   *turns
	// running are the goroutines of Run.
	running sync.WaitGroup
	// dirty has a value when Files have changed since somebody was told.
	dirty chan struct{}
	// complete is closed when everything has been read once.
	complete chan struct{}

	mu     sync.Mutex // for all below
	tables map[string]*table
	// definitions tells which kinds the API server has.
	definitions *table
	synced      bool
	files       []istio.File      // sorted by name
	changes     map[string][]byte // of files; nil: it is gone
	lastEvent   time.Time
	failing     map[string]bool // kinds whose newest request failed
	secrets     secrets
}

// New returns an Informer that has read nothing.
func New(o Options) (*Informer, error) {
	if o.Node == "" {
		return nil, errors.New("no node name: egressd reads the pods of its own node")
	}
	t := newTurns()
	c, err := newClients(o.Config, t)
	if err != nil {
		return nil, err
	}
	if o.Cgroups == nil {
		o.Cgroups = podCgroups
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Informer{
		o: o, clients: c, turns: t, dirty: make(chan struct{}, 1), complete: make(chan struct{}),
		tables: map[string]*table{}, changes: map[string][]byte{}, failing: map[string]bool{},
		secrets: secrets{named: map[string]int{}, watched: map[string]*watchedSecret{}, changed: make(chan struct{}, 1)},
	}
	s.definitions = newTable(s, kind{name: "CustomResourceDefinition"})
	for _, k := range kinds() {
		s.tables[k.name] = newTable(s, k)
	}
	if o.FindCluster {
		for _, k := range clusterKinds(o.Node) {
			s.tables[k.name] = newTable(s, k)
		}
	}
	return s, nil
}

// Run watches until ctx ends. changed is called in its goroutine when all has been
// read once, and then each time Files have changed: what comes during a call is
// reported by one more.
func (s *Informer) Run(ctx context.Context, changed func()) error {
	defer s.clients.http.CloseIdleConnections()
	defer s.running.Wait()
	if s.o.Spread > 0 && !sleep(ctx, rand.N(s.o.Spread)) {
		return nil
	}
	for _, t := range s.tables {
		if !t.kind.defined() {
			s.running.Go(func() { t.watch(ctx, s.clients.builtIn(t.kind, s.o.Node)) })
		}
	}
	s.running.Go(func() { s.followDefinitions(ctx) })
	s.running.Go(func() { s.followSecrets(ctx) })
	select {
	case <-ctx.Done():
		return nil
	case <-s.complete:
	}
	var took time.Duration // by the last change
	var ended time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.dirty:
		}
		if !sleep(ctx, pause(took, time.Since(ended))) {
			return nil
		}
		select { // what came meanwhile is in Files
		case <-s.dirty:
		default:
		}
		start := time.Now()
		changed()
		ended = time.Now()
		took = ended.Sub(start)
	}
}

// pause is how long a change is put off: until the last one, which took so long and
// ended a while ago, is as long ago as it took.
func pause(took, ago time.Duration) time.Duration {
	return min(max(debounce, took-ago), patience)
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// Files are the objects that are known now, sorted by name. A file that has not
// changed has the same Data, the same memory even, which must not be written to.
func (s *Informer) Files() []istio.File {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.changes) == 0 {
		return s.files
	}
	names := make([]string, 0, len(s.changes))
	for name := range s.changes {
		names = append(names, name)
	}
	slices.Sort(names)
	out := make([]istio.File, 0, len(s.files)+len(names))
	old := s.files
	for _, name := range names {
		i, found := slices.BinarySearchFunc(old, name, func(f istio.File, name string) int { return cmp.Compare(f.Name, name) })
		out = append(out, old[:i]...)
		if old = old[i:]; found {
			old = old[1:]
		}
		if data := s.changes[name]; data != nil {
			out = append(out, istio.File{Name: name, Data: data})
		}
	}
	s.files = append(out, old...)
	clear(s.changes)
	return s.files
}

// set changes a file; nil data: it is gone.
func (s *Informer) set(name string, data []byte) {
	s.changes[name] = data
	s.tell()
}

// Again has Run tell of a change once more.
func (s *Informer) Again() { s.tell() }

// tell has Run call changed.
func (s *Informer) tell() {
	select {
	case s.dirty <- struct{}{}:
	default:
	}
}

// Synced says whether everything has been read once. Until then Files are not what
// the API server has.
func (s *Informer) Synced() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.synced
}

// check notes when everything has been read once.
func (s *Informer) check() {
	if s.synced || len(s.awaited()) > 0 {
		return
	}
	s.synced = true
	close(s.complete)
	s.tell()
}

// awaited are the kinds that have not been read, and why.
func (s *Informer) awaited() []string {
	var out []string
	await := func(t *table) {
		if t.synced || t.kind.optional && t.refused {
			return
		}
		text := t.kind.name
		switch {
		case t.err != "":
			text += " (" + t.err + ")"
		case !t.busy.IsZero():
			text += " (the API server has too much to do for it, and is asked again)"
		}
		out = append(out, text)
	}
	await(s.definitions)
	for _, t := range s.tables {
		if !t.kind.defined() || t.present {
			await(t)
		}
	}
	slices.Sort(out)
	return out
}

// Await waits until everything has been read once, at most for d. The error says
// what has not been.
func (s *Informer) Await(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-s.complete:
		return nil
	case <-ctx.Done():
	case <-timer.C:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.synced {
		return nil
	}
	return fmt.Errorf("the API server %s has not told everything yet: %s", s.clients.server, strings.Join(s.awaited(), ", "))
}
