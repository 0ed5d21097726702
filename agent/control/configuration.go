// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio"
	"github.com/egressd/egressd/policy/load"
	"github.com/egressd/egressd/policy/source"
)

// configuration reads the daemon's policy again and again. What did not change
// is not read, decoded or compiled again.
type configuration struct {
	mu     sync.Mutex // for all but the channel
	paths  []string
	files  source.Cache
	allow  source.AllowCache
	reader *istio.Reader
	// allowEmpty lets files without an object be the policy of no objects.
	allowEmpty bool
	// unsaved is in force and not on disk; nil: what is in force is.
	unsaved *Loaded
	// unseen says that what is in force was not analyzed.
	unseen bool
	// changed has a value when there is something unsaved or unseen.
	changed chan struct{}
	objects objects
	// released is how many bytes the reader had decoded when memory was given back last.
	released int64
}

func newConfiguration(o Options) *configuration {
	return &configuration{
		paths: o.Config,
		allow: source.AllowCache{Allow: o.Allow},
		reader: istio.NewReader(istio.Options{
			GatewaySelector: o.GatewaySelector, AllowEndpoints: o.AllowEndpoints, Cluster: o.Cluster, FindCluster: o.FindCluster,
		}),
		changed: make(chan struct{}, 1),

		allowEmpty: o.AllowEmpty,
		objects:    objects{Objects: o.Objects},
		files:      source.Cache{AllowEmpty: o.AllowEmpty},
	}
}

// load is load.Paths with what is known from before, which was is compiled
// from; nil is nothing. The findings lack those of the reader's Analyze.
func (c *configuration) load(was *policy.Snapshot) (Loaded, error) {
	start := time.Now()
	files, err := c.read()
	read := time.Since(start)
	var l Loaded
	switch {
	case c.objects.Objects != nil:
		c.objects.disk, c.objects.diskErr = files, err
		l, err = c.combine(was)
	case err == nil:
		l, err = c.compile(files, was)
	}
	l.Took.Read = read
	return l, err
}

// read reads the files again that changed. None are an empty policy.
func (c *configuration) read() ([]istio.File, error) {
	short, err := c.allow.Files()
	if err != nil || len(c.paths) == 0 {
		return short, err
	}
	files, err := c.files.Files(c.paths)
	if err != nil {
		return nil, err
	}
	return append(short, files...), nil
}

// compile is load for files that have been read.
func (c *configuration) compile(files []istio.File, was *policy.Snapshot) (Loaded, error) {
	if was == nil {
		was = new(policy.Snapshot)
	}
	start := time.Now()
	config, findings := c.reader.Load(files)
	l := Loaded{Findings: findings, Files: files, Took: load.Took{Decode: time.Since(start)}}
	l.Empty = config != nil && len(c.paths)+len(c.allow.Allow.Paths) > 0 && c.reader.Empty(onDisk)
	err := l.Compile(config, was)
	l.Secrets = c.reader.Secrets()
	return l, err
}

// onDisk says whether a file is no object of an API server.
func onDisk(name string) bool { return !source.IsObject(name) }

// errEmpty says that files have no policy objects, which is more often an accident
// (a file cut to nothing, a wrong directory, a template that rendered nothing)
// than the wish to cut everything off.
var errEmpty = errors.New("the policy's files hold no policy objects any more; write one, or, to deny everything, start with --allow-empty-policy")

// refuses says why a policy is not to replace one that had objects; nil: it may.
func (c *configuration) refuses(l Loaded, err error) error {
	switch {
	case c.allowEmpty:
		return err
	case err == nil && l.Empty:
		return errEmpty
	case onlyEmpty(err):
		return fmt.Errorf("%w (%w)", errEmpty, err)
	}
	return err
}

// onlyEmpty says whether directories without files are all that is wrong.
func onlyEmpty(err error) bool {
	if all, ok := err.(interface{ Unwrap() []error }); ok {
		return !slices.ContainsFunc(all.Unwrap(), func(err error) bool { return !onlyEmpty(err) })
	}
	return errors.As(err, new(*source.EmptyError))
}

// later notes what is in force, for Settle.
func (c *configuration) later(l Loaded, unseen bool) {
	c.unsaved, c.unseen = &l, unseen
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

const (
	// debounce is how long the policy must not have changed before it is analyzed
	// and saved: both take longer than a change, which must not wait for them.
	debounce = time.Second
	// maxDebounce is how long that is put off when it changes all the time.
	maxDebounce = 10 * time.Second
	// objectsDebounce and objectsMaxDebounce are the same with an API server, whose
	// objects change all the time.
	objectsDebounce    = 2 * time.Second
	objectsMaxDebounce = 30 * time.Second
)

// Settle saves the first policy, and analyzes and saves the one in force when
// no further change comes, until ctx ends.
func (c *Control) Settle(ctx context.Context) {
	wait, longest := debounce, maxDebounce
	if c.o.Objects != nil {
		wait, longest = objectsDebounce, objectsMaxDebounce
	}
	timer := time.NewTimer(wait)
	timer.Stop()
	defer timer.Stop()
	c.release()
	c.SaveLastGood()
	var since time.Time // of the first change; zero: none
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.config.changed:
			now := time.Now()
			if since.IsZero() {
				since = now
			}
			timer.Reset(min(wait, longest-now.Sub(since)))
		case <-timer.C:
			since = time.Time{}
			c.analyze()
			c.SaveLastGood()
			c.release()
		}
	}
}

// analyze says what is probably wrong with the policy in force, unless that
// has been said.
func (c *Control) analyze() {
	c.config.mu.Lock()
	defer c.config.mu.Unlock()
	if !c.config.unseen {
		return
	}
	c.config.unseen = false
	found := c.config.reader.Analyze()
	c.logFindings(found)
	c.report.found(found)
}
