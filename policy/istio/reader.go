// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/analyze"
	"github.com/egressd/egressd/policy/istio/internal/code"
	"github.com/egressd/egressd/policy/istio/internal/gwapi"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// Reader reads a configuration again and again. What has not changed since it
// was read is taken over: the text of files is decoded once, and ServiceEntries
// that need no other object are the same *policy.Service in the next Config,
// so that the cost of a change is that of what changed.
//
// A Reader is used by one goroutine. It keeps the files that it was given.
type Reader struct {
	options Options
	kinds   *kindTable
	size    int                   // of batches
	files   map[string]parsedFile // by name
	names   []string              // of the files, in reading order
	order   map[string]int        // of the files by name
	batches []*batch              // of all files, in reading order
	mark    int                   // of the last comparison of batches
	decoded int64                 // bytes of batches, so far
	// seen are the objects of the batches by their names; nil: to be found out.
	seen map[string]*object
	// twice are the objects whose name another one had before, what there is
	// to say about them, and those that are ruled out.
	twice   map[string][]*object
	repeats []Finding
	refused map[*object]bool
	// l and config are of the objects that are more than independent
	// ServiceEntries; nil before the first Load.
	l      *loader
	config *policy.Config
	last   *policy.Config // as Load returned it
	// listeners and routed are what Gateways of the Gateway API and their routes became.
	listeners []*policy.Gateway
	routed    []*policy.VirtualService
}

// parsedFile is a file as it was read.
type parsedFile struct {
	data    []byte
	batches []*batch
}

// NewReader makes a Reader that has read nothing.
func NewReader(o Options) *Reader {
	if o.Namespace == "" {
		o.Namespace = "default"
	}
	return &Reader{options: o, kinds: newKindTable(), size: batchSize}
}

// Load translates files as the function Load does, but for the warnings about
// objects that are right by themselves and wrong together, which take longer:
// Analyze has them. The Config is nil when any finding is an Error. It shares
// parts with those before, so none may be changed.
func (r *Reader) Load(files []File) (*policy.Config, []Finding) {
	batches, removed, added := r.read(files)
	order := r.order
	again := r.l == nil || r.l.outside || !plain(removed) || !plain(added)
	again = r.rename(batches, removed, added) || again
	r.batches = batches
	if again {
		r.translate(order)
	}
	r.l.r.Order = order
	findings, errors := r.findings()
	cfg := r.assemble()
	if r.l.api.some() || len(r.routed) > 0 {
		said, wrong := r.routes(cfg)
		findings, errors = r.l.r.Sorted(append(findings, said...)), errors+wrong
	}
	r.last = nil
	if errors == 0 {
		r.last = cfg
	}
	return r.last, findings
}

// Decoded is how many bytes of text were decoded so far: what did not change counts once.
func (r *Reader) Decoded() int64 { return r.decoded }

// routes adds what the Gateway API's objects say, whose routes may be about
// ServiceEntries of any kind, and returns what there is to say about it.
func (r *Reader) routes(cfg *policy.Config) (said []Finding, errors int) {
	report, origins := r.l.r, map[*policy.WeightedDestination]strictyaml.Passage{}
	findings, before := len(report.Findings), report.Errors
	gateways, now := gwapi.Translate(r.l.api.objects(report), cfg.Services, origins, r.l.merged)
	keep(gateways, r.listeners, (*policy.Gateway).Key)
	r.listeners = gateways
	cfg.Gateways = slices.Concat(cfg.Gateways, gateways)
	said, errors = slices.Clone(report.Findings[findings:]), report.Errors-before
	report.Findings, report.Errors = report.Findings[:findings], before
	for _, vs := range r.routed {
		for _, w := range vs.Destinations() {
			delete(r.l.origins, w)
		}
	}
	made := slices.Clone(now)
	keep(now, r.routed, func(vs *policy.VirtualService) string { return fmt.Sprint(vs.Ref, vs.Hosts, vs.Ports, vs.Gateways) })
	for i, vs := range now {
		written := made[i].Destinations()
		for j, w := range vs.Destinations() { // the same or equal ones
			r.l.origins[w] = origins[written[j]]
		}
	}
	r.routed = now
	cfg.VirtualServices = slices.Concat(cfg.VirtualServices, now)
	return said, errors
}

// findings are those about all that was read, and how many are Errors.
func (r *Reader) findings() (all []Finding, errors int) {
	n := len(r.l.r.Findings)
	errors = r.l.r.Errors
	for _, b := range r.batches {
		if b.plain {
			n += b.said
			errors += b.errors
		}
	}
	all = make([]Finding, 0, n)
	for _, b := range r.batches {
		if b.plain && b.said > 0 {
			all = b.appendTo(all, r.refused)
		}
	}
	return r.l.r.Sorted(append(all, r.l.r.Findings...)), errors
}

func plain(batches []*batch) bool {
	return !slices.ContainsFunc(batches, func(b *batch) bool { return !b.plain })
}

// named says whether files have the names that they had before, in their order.
func (r *Reader) named(files []File) bool {
	return len(files) > 0 && len(files) == len(r.files) && slices.EqualFunc(files, r.names, func(f File, name string) bool { return f.Name == name })
}

// read decodes what is new in files. It returns all batches in reading order,
// and those that are no more or were not there before. When what is there is
// in another order than before, all are both.
func (r *Reader) read(files []File) (batches, removed, added []*batch) {
	known := r.files
	again := r.named(files) // then each is there once
	if !again {
		known = make(map[string]parsedFile, len(files))
		r.order, r.names = make(map[string]int, len(files)), make([]string, len(files))
	}
	batches = make([]*batch, 0, len(r.batches))
	for i, f := range files {
		if again {
			if old := r.files[f.Name]; same(old.data, f.Data) {
				batches = append(batches, old.batches...)
				continue
			}
		} else {
			r.order[f.Name], r.names[i] = i, f.Name
		}
		old := r.files[f.Name]
		if _, twice := known[f.Name]; twice && !again {
			old = parsedFile{} // what was is another's by now
		}
		now := parsedFile{data: f.Data, batches: old.batches}
		if old.data == nil || !same(old.data, f.Data) {
			now.batches = old.update(f, r.size)
		}
		known[f.Name] = now
		batches = append(batches, now.batches...)
	}
	r.files = known
	removed, stayed := r.without(r.batches, batches)
	added, still := r.without(batches, r.batches)
	decode(added, r.options.Namespace, r.kinds)
	for _, b := range added {
		r.decoded += int64(len(b.Text))
	}
	if !slices.Equal(stayed, still) {
		return batches, r.batches, batches
	}
	return batches, removed, added
}

// without splits x into what is not in y and what is.
func (r *Reader) without(x, y []*batch) (out, in []*batch) {
	r.mark++
	for _, b := range y {
		b.mark = r.mark
	}
	in = make([]*batch, 0, len(x))
	for _, b := range x {
		if b.mark == r.mark {
			in = append(in, b)
		} else {
			out = append(out, b)
		}
	}
	return out, in
}

// same compares files. Those that did not change are often the same memory.
func same(a, b []byte) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0] || bytes.Equal(a, b))
}

// update returns the batches of f: those of old that are the same, and new
// ones that have not been decoded.
func (old parsedFile) update(f File, size int) []*batch {
	byLine := make(map[int]*batch, len(old.batches))
	for _, b := range old.batches {
		byLine[b.Line] = b
	}
	batches := batchesOf(f, size)
	for i, b := range batches {
		if was := byLine[b.Line]; was != nil && bytes.Equal(was.Text, b.Text) {
			was.Text = b.Text // the old text is let go
			batches[i] = was
		}
	}
	return batches
}

// rename brings the names of objects up to date. It says whether names that
// several objects have, or had, changed what there is.
func (r *Reader) rename(batches, removed, added []*batch) (changed bool) {
	if r.seen == nil || !r.forget(removed) || !r.learn(added) {
		r.register(batches)
		return true
	}
	return false
}

// forget removes the names of batches, and says whether that was all.
func (r *Reader) forget(batches []*batch) bool {
	for _, b := range batches {
		for i := range b.drafts {
			o := b.drafts[i].object
			if o == nil {
				continue
			}
			if r.twice[o.Object] != nil {
				return false
			}
			delete(r.seen, o.Object)
		}
	}
	return true
}

// learn adds the names of batches, and says whether all were new.
func (r *Reader) learn(batches []*batch) bool {
	for _, b := range batches {
		for i := range b.drafts {
			o := b.drafts[i].object
			if o == nil {
				continue
			}
			if r.seen[o.Object] != nil {
				return false
			}
			r.seen[o.Object] = o
		}
	}
	return true
}

// register finds out the names of all objects, and those that several have.
func (r *Reader) register(batches []*batch) {
	r.seen = make(map[string]*object, len(r.seen))
	r.twice, r.refused = map[string][]*object{}, map[*object]bool{}
	said := strictyaml.Report{Code: code.Of}
	for _, b := range batches {
		for i := range b.drafts {
			o := b.drafts[i].object
			if o == nil {
				continue
			}
			first := r.seen[o.Object]
			if first == nil {
				r.seen[o.Object] = o
				continue
			}
			r.twice[o.Object] = append(r.twice[o.Object], o)
			at := strictyaml.Reporter{Report: &said, File: o.File, Object: o.Object, Suppress: o.Suppress}
			name := &strictyaml.Node{Line: o.ref.Line, Col: o.ref.Column}
			if o.kind == "ServiceEntry" && first.File != o.File {
				// A directory may hold alternatives that a cluster would take one
				// after the other. An allowlist can hold both.
				at.Warnf(name, "the object is already defined at %s:%d:%d; both are in force here, a cluster keeps the one that was applied last",
					first.File, first.ref.Line, first.ref.Column)
				continue
			}
			at.Errorf(name, "the object is already defined at %s:%d:%d", first.File, first.ref.Line, first.ref.Column)
			r.refused[o] = true
		}
	}
	r.repeats = said.Findings
}

// translate translates what is more than independent ServiceEntries.
func (r *Reader) translate(order map[string]int) {
	l := newLoader(r.options, r.kinds)
	l.r.Order = order
	l.seen, l.twice = r.seen, r.twice
	l.r.AddAll(r.repeats)
	for _, b := range r.batches {
		if b.plain {
			continue
		}
		l.r.AddAll(b.findings)
		for i := range b.drafts {
			l.take(&b.drafts[i], r.refused)
		}
	}
	was := r.l
	r.l, r.config = l, l.translate(was)
	if was != nil {
		keep(l.dependent, was.dependent, serviceRef)
		keep(r.config.Services, was.kubernetes, serviceRef)
	}
	l.kubernetes = r.config.Services
}

// take takes a draft after those before it.
func (l *loader) take(d *draft, refused map[*object]bool) {
	l.r.AddAll(d.says().head)
	if d.object == nil || refused[d.object] {
		return
	}
	d.object.order = l.count
	l.count++
	l.r.AddAll(d.says().body)
	if d.take == nil {
		return
	}
	for s := range d.says().unread {
		l.r.UnreadAt(s)
	}
	d.object.Report = l.r
	d.take(l)
}

// assemble makes a Config of what was translated. After errors something may
// be missing in it.
func (r *Reader) assemble() *policy.Config {
	cfg := *r.config
	cfg.GatewaySelector = maps.Clone(cfg.GatewaySelector)
	n := len(r.l.dependent) + len(r.l.kubernetes)
	for _, b := range r.batches {
		n += len(b.services)
	}
	cfg.Services = make([]*policy.Service, 0, n)
	dependent := r.l.dependent
	for _, b := range r.batches {
		independent := b.visible(r.l.exports[0])
		if b.plain {
			cfg.Services = append(cfg.Services, independent...)
			continue
		}
		for i := range b.drafts {
			switch d := &b.drafts[i]; {
			case d.service != nil && len(independent) > 0:
				cfg.Services = append(cfg.Services, independent[0])
				independent = independent[1:]
			case d.service == nil && d.take != nil && d.object.kind == "ServiceEntry" && len(dependent) > 0:
				cfg.Services = append(cfg.Services, dependent[0])
				dependent = dependent[1:]
			}
		}
	}
	cfg.Services = append(cfg.Services, r.l.kubernetes...)
	return &cfg
}

// Empty says that those files of the last Load that are counted held no object that
// egressd reads: nothing, comments, or other kinds alone.
func (r *Reader) Empty(counts func(file string) bool) bool {
	for _, b := range r.batches {
		if !counts(b.file) {
			continue
		}
		for i := range b.drafts {
			if d := &b.drafts[i]; d.object != nil && d.object.kind != namespaceKind || d.service != nil {
				return false
			}
		}
	}
	return true
}

// Analyze warns about objects of the last Load that are right by themselves
// and wrong together. Its cost is linear in the number of objects. There are
// no findings when the Load had errors: an object that could not be read would
// be missed everywhere else.
func (r *Reader) Analyze() []Finding {
	if r.last == nil {
		return nil
	}
	l := r.l
	l.namespaces = map[string]bool{}
	for _, b := range r.batches {
		for i := range b.drafts {
			if o := b.drafts[i].object; o != nil {
				l.namespaces[o.ref.Namespace] = true
			}
		}
	}
	before := len(l.r.Findings)
	var restored []*batch
	analyze.Config(r.last, l.files(&restored))
	for _, b := range restored {
		b.letGo()
	}
	found := slices.Clone(l.r.Findings[before:])
	l.r.Findings = l.r.Findings[:before]
	return l.r.Sorted(found)
}

// files says where the Config is written. Batches whose trees are read again
// for it go to restored.
func (l *loader) files(restored *[]*batch) analyze.Files {
	find := func(ref policy.Ref) (r strictyaml.Reporter, spec *strictyaml.Node) {
		o := l.objectOf(ref)
		if o == nil {
			return r, nil
		}
		if o.root == nil {
			o.batch.restore(l)
			*restored = append(*restored, o.batch)
		}
		return o.Reporter, o.spec()
	}
	return analyze.Files{Report: l.r, Object: find, Written: l.origins, Namespaces: l.namespaces}
}

// appendTo appends the batch's findings but those of refused objects.
func (b *batch) appendTo(all []Finding, refused map[*object]bool) []Finding {
	all = append(all, b.findings...)
	for i := range b.drafts {
		s := b.drafts[i].says()
		all = append(all, s.head...)
		if !refused[b.drafts[i].object] {
			all = append(all, s.body...)
		}
	}
	return all
}
