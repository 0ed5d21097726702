// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio"
	"github.com/egressd/egressd/policy/load"
	"github.com/egressd/egressd/policy/source"
)

// Objects are the policy's objects that an API server has, each a file of its own.
type Objects interface {
	// Files are those that are known now, sorted by name. Until Synced they are not
	// all.
	Files() []istio.File
	Synced() bool
}

// ErrUnsynced says that the API server has not told which objects there are, and that
// nothing is known of what there were, or that this is not good enough.
var ErrUnsynced = errors.New("the API server has not told which objects there are")

// objects are the part of the configuration that an API server has.
type objects struct {
	Objects  // nil: there is none
	refusals load.Refusals
	// disk are the files as they were read last, or diskErr is why they could not
	// be; good are the newest that were loaded, if any were.
	disk    []istio.File
	diskErr error
	good    []istio.File
	isGood  bool
	// empty says that good hold no object.
	empty bool
	// held are the objects of the last good policy, until the API server tells.
	held   []istio.File
	isHeld bool
}

// now are the objects that count now; false: they are not known.
func (o *objects) now() ([]istio.File, bool) {
	if o.Synced() {
		o.held, o.isHeld = nil, false
		return o.Files(), true
	}
	return o.held, o.isHeld
}

// restore takes what a last good policy has. Unless current is wanted, its objects
// count until the API server tells, and its files if those on disk are bad.
func (o *objects) restore(files []istio.File, current bool) {
	var of []istio.File
	var disk []istio.File
	for _, f := range files {
		if source.IsObject(f.Name) {
			of = append(of, f)
		} else {
			disk = append(disk, f)
		}
	}
	o.refusals.Restore(of)
	if !current {
		o.held, o.isHeld = of, true
		o.good, o.isGood = disk, true
	}
}

// combine loads files on disk and objects. Files that are bad are left out as a
// whole: those before them count, with the newest objects.
func (c *configuration) combine(was *policy.Snapshot) (Loaded, error) {
	o := &c.objects
	current, known := o.now()
	if !known {
		return Loaded{}, ErrUnsynced
	}
	try := func(files []istio.File) (Loaded, error) { return c.compile(files, was) }
	l, err := Loaded{}, o.diskErr
	if err == nil {
		l, err = o.refusals.Load(o.disk, current, o.isGood && sameFiles(o.disk, o.good), try)
		if err == nil && l.Empty && o.isGood && !o.empty && !c.allowEmpty {
			err = errEmpty
		}
	}
	if err == nil {
		o.good, o.isGood, o.empty = o.disk, true, l.Empty
		l.Empty = false // there is an API server beside them
		return l, nil
	}
	if !o.isGood {
		return l, err
	}
	old, oerr := o.refusals.Load(o.good, current, true, try)
	if oerr != nil {
		return l, err
	}
	old.Rejected, old.Empty = err, false
	old.Findings = append(old.Findings, errorsOf(l.Findings)...)
	return old, nil
}

func errorsOf(findings []istio.Finding) []istio.Finding {
	return slices.DeleteFunc(slices.Clone(findings), func(f istio.Finding) bool { return f.Severity != istio.Error })
}

func sameFiles(a, b []istio.File) bool {
	return slices.EqualFunc(a, b, func(a, b istio.File) bool { return a.Name == b.Name && string(a.Data) == string(b.Data) })
}

// firstOfObjects is first with an API server: until that tells, the objects of the
// last good policy count, but not in a daemon that is to take over.
func (c *Control) firstOfObjects(fresh bool) (Loaded, error) {
	g, gerr := readLastGood(c.o.LastGood, c.o)
	if gerr != nil {
		c.o.Log.Warn("the last good policy cannot be used", "error", gerr)
	}
	at := time.Now()
	if g != nil {
		c.config.objects.restore(g.Files, fresh)
	}
	l, err := c.config.load(nil)
	if err == nil && fresh {
		err = l.Rejected
	}
	if err != nil {
		c.logFindings(l.Findings)
		if fresh {
			err = errors.Join(errors.New("nothing is taken over with a policy that cannot be used"), err)
		}
		return l, err
	}
	l.Findings = append(l.Findings, c.config.reader.Analyze()...)
	c.logFindings(l.Findings)
	if c.config.objects.isHeld {
		at = g.Saved
		c.o.Log.Warn("the API server has not told which objects there are; those of the last good policy are in force until it does",
			"saved", g.Saved, "file", c.o.LastGood)
	}
	c.logRejected(l.Rejected)
	c.logRefused(l.Refused)
	c.report.loaded(l, nil, at)
	c.config.later(l, false)
	return l, nil
}

// ReloadObjects applies what the API server has now. Files on disk are those that were
// read last: they may be being written.
func (c *Control) ReloadObjects() {
	c.config.mu.Lock()
	defer c.config.mu.Unlock()
	start := time.Now()
	l, err := c.config.combine(c.Snapshot())
	l.Took.Read = max(0, time.Since(start)-l.Took.Decode-l.Took.Compile)
	c.reloaded(l, err)
}

// logRefused says once which objects are left out, and which are not any more.
func (c *Control) logRefused(refused []load.Refused) {
	now := make(map[string]string, len(refused))
	for _, r := range refused {
		now[r.File] = r.Message
		if c.refused[r.File] == r.Message {
			continue
		}
		inForce := "nothing of it"
		if r.Older {
			inForce = "its last good version"
		}
		c.o.Log.Error("an object has an error and is left out; all others are in force", "object", r.Object, "error", r.Message, "in_force", inForce)
	}
	for file := range c.refused {
		if _, still := now[file]; !still {
			c.o.Log.Info("an object that had an error has none any more, or is gone", "object", source.ObjectOf(file))
		}
	}
	c.refused = now
}

// logRejected says why the newest policy was not applied; nil: it was. With an API
// server that is said once, not again with each object that changes.
func (c *Control) logRejected(err error) {
	was := c.rejected
	if c.rejected = ""; err == nil {
		return
	}
	c.rejected = err.Error()
	if c.o.Objects == nil || c.rejected != was {
		c.logNotApplied(err)
	}
}

// logNew logs what was not found the last time.
func (c *Control) logNew(findings []istio.Finding) {
	said := make(map[string]bool, len(findings))
	for _, f := range findings {
		text := f.String()
		said[text] = true
		if !c.said[text] && !(source.IsObject(f.File) && f.Severity == istio.Error) { // logRefused says those
			c.o.Log.Log(context.Background(), levelOf(f), "policy", "finding", text)
		}
	}
	c.said = said
}

func levelOf(f istio.Finding) slog.Level {
	switch f.Severity {
	case istio.Error:
		return slog.LevelError
	case istio.Warning:
		return slog.LevelWarn
	}
	return slog.LevelDebug
}
