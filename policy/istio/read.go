// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"bytes"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/check"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// batchSize is about how much text is read at a time: enough that starting a
// decoder costs nothing beside it, and little enough that a change costs
// little and that one big file keeps all cores busy.
const batchSize = 8 << 10

// batchesOf cuts a file between documents, into batches of at least size bytes.
func batchesOf(f File, size int) []*batch {
	data := bytes.TrimPrefix(f.Data, []byte("\xef\xbb\xbf"))
	var batches []*batch
	start, end, line := 0, 0, 0
	cut := func() {
		text := data[start:end:end]
		batches = append(batches, &batch{file: f.Name, Chunk: strictyaml.Chunk{Text: text, Line: line}})
		line += bytes.Count(text, []byte("\n"))
		start = end
	}
	for _, c := range strictyaml.Split(data) {
		end += len(c.Text)
		// A directive at the end of c belongs to the document behind it.
		if end-start >= size && !bytes.Contains(c.Text, []byte("\n%")) {
			cut()
		}
	}
	if start < end {
		cut()
	}
	return batches
}

// workers is how many goroutines concurrently uses for n calls.
func workers(n int) int { return min(n, runtime.GOMAXPROCS(0)) }

// concurrently calls f for each i below n and returns when all calls have.
// Calls with the same worker number come one after the other.
func concurrently(n int, f func(worker, i int)) {
	if n == 1 {
		f(0, 0)
		return
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	for worker := range workers(n) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				f(worker, i)
			}
		})
	}
	wg.Wait()
}

// decode reads batches, several at a time.
func decode(batches []*batch, namespace string, kinds *kindTable) {
	byWorker := make([]strictyaml.Types, workers(len(batches)))
	concurrently(len(batches), func(worker, i int) {
		if byWorker[worker] == nil {
			byWorker[worker] = strictyaml.Types{}
		}
		rd := batchReader{batch: batches[i], namespace: namespace, kinds: kinds, types: byWorker[worker]}
		rd.read()
	})
}

// batchReader reads the documents of one batch.
type batchReader struct {
	*batch
	namespace string // of objects that name none
	kinds     *kindTable
	types     strictyaml.Types
	keep      bool // the trees of all objects
}

// place starts a report of its own: the findings of one part of a document.
func (rd *batchReader) place() *strictyaml.Reporter {
	return &strictyaml.Reporter{Report: newReport(rd.types), File: rd.file}
}

func (rd *batchReader) read() {
	p := rd.place()
	for _, doc := range strictyaml.Documents(rd.Chunk, p) {
		rd.document(doc)
	}
	rd.findings, rd.said, rd.errors, rd.plain = p.Report.Findings, len(p.Report.Findings), p.Report.Errors, true
	for i := range rd.drafts {
		d := &rd.drafts[i]
		said := d.says()
		rd.said += len(said.head) + len(said.body)
		rd.errors += countErrors(said.head) + countErrors(said.body)
		rd.plain = rd.plain && d.take == nil
		if d.service != nil {
			rd.services = append(rd.services, d.service)
		}
	}
}

func countErrors(findings []Finding) (n int) {
	for _, f := range findings {
		if f.Severity == Error {
			n++
		}
	}
	return n
}

// document reads one document: an object, or a list of objects.
func (rd *batchReader) document(n *strictyaml.Node) {
	if n.IsNull() {
		return
	}
	p := rd.place()
	d := draft{}
	if items := rd.head(n, p, &d); items != nil {
		for _, item := range items {
			rd.document(item)
		}
		return
	}
	if len(p.Report.Findings) > 0 {
		d.note().head = p.Report.Findings
	}
	if d.object != nil || d.said != nil {
		rd.drafts = append(rd.drafts, d)
	}
}

// head reads what kind of document n is. It fills d for an object, and
// returns the items of a list.
func (rd *batchReader) head(n *strictyaml.Node, p *strictyaml.Reporter, d *draft) (items []*strictyaml.Node) {
	if n.Kind != strictyaml.Mapping {
		p.Errorf(n, "expected a Kubernetes object, got %s", n.What())
		return nil
	}
	version, kind := rd.typeMeta(n, p)
	if kind == "" {
		return nil
	}
	if items := n.Get("items"); items != nil && strings.HasSuffix(kind, "List") {
		if items.Kind != strictyaml.List && !items.IsNull() {
			p.Errorf(items, "items: expected a list, got %s", items.What())
		}
		return items.Items
	}
	k, ok := rd.kinds.find(n, version, kind, p)
	if !ok {
		return nil
	}
	o := rd.object(n, nameOfKind(version, kind), p)
	if o == nil {
		return nil
	}
	body := newReport(rd.types)
	o.Report, o.batch = body, rd.batch
	d.object = o
	k.decode(o, d)
	if len(body.Findings) > 0 {
		d.note().body, d.said.unread = body.Findings, body.Unreadable
	}
	o.Report = nil // the report of who takes it comes here
	if d.service != nil && !rd.keep {
		o.letGo()
	}
	return nil
}

// restore reads the trees of the batch's objects again, to find places in
// them. Findings about them are for l.
func (b *batch) restore(l *loader) {
	again := &batch{file: b.file, Chunk: b.Chunk}
	rd := batchReader{batch: again, namespace: l.namespace, kinds: l.kinds, types: strictyaml.Types{}, keep: true}
	rd.read()
	for i, d := range again.drafts {
		if o := b.drafts[i].object; o != nil && o.root == nil {
			o.root, o.meta, o.Report = d.object.root, d.object.meta, l.r
		}
	}
}

// letGo is the reverse of restore.
func (b *batch) letGo() {
	for i := range b.drafts {
		if d := &b.drafts[i]; d.service != nil {
			d.object.letGo()
		}
	}
}

// typeMeta reads apiVersion and kind; kind is "" when there is no object.
func (rd *batchReader) typeMeta(n *strictyaml.Node, p *strictyaml.Reporter) (version, kind string) {
	v, k := n.Get("apiVersion"), n.Get("kind")
	switch {
	case v == nil && k == nil:
		p.Warnf(n, "neither apiVersion nor kind: not a Kubernetes object, skipped; what opens a host is a ServiceEntry (apiVersion: networking.istio.io/v1)")
	case v == nil || v.Tag != "!!str" || v.Text == "":
		p.Errorf(n.At("apiVersion"), "apiVersion is missing or not a string%s", rd.kinds.groupHint(n.At("kind").Text))
	case k == nil || k.Tag != "!!str" || k.Text == "":
		p.Errorf(n.At("kind"), "kind is missing or not a string")
	default:
		return v.Text, k.Text
	}
	return "", ""
}

// object reads the metadata. It returns nil after an error.
func (rd *batchReader) object(n *strictyaml.Node, kind string, p *strictyaml.Reporter) *object {
	o := &object{Checker: check.Checker{Reporter: *p}, kind: kind, root: n, meta: &meta.ObjectMeta{}}
	o.Object = kind
	if kind == operatorKind {
		n = withOperatorName(n)
		o.root = n
	}
	if m := n.Get("metadata"); m == nil || m.Kind != strictyaml.Mapping {
		o.Errorf(n, "metadata is missing or not a mapping")
		return nil
	}
	name := n.At("metadata", "name")
	if name.Kind == strictyaml.Scalar && name.Tag == "!!str" {
		o.Object = kind + " " + rd.namespaceOf(n) + "/" + name.Text
	}
	if !o.plainMeta() && !strictyaml.DecodeGo(n.At("metadata"), o.meta, "metadata", &o.Reporter) {
		return nil
	}
	if o.meta.Namespace == "" {
		o.meta.Namespace = rd.namespace
	}
	if !o.validName(name) {
		return nil
	}
	o.metaLabels()
	o.suppressed()
	o.ref = policy.Ref{
		Kind: kind, Namespace: o.meta.Namespace, Name: o.meta.Name,
		File: p.File, Line: name.Line, Column: name.Col,
	}
	return o
}

// plainMeta reads metadata of what most have and nothing else (names, labels,
// annotations, and when the object was made) without the official decoder. It says
// whether it did.
func (o *object) plainMeta() bool {
	var m meta.ObjectMeta
	fields := o.root.Get("metadata").Fields
	for i := range fields {
		var ok bool
		v := fields[i].Value
		switch fields[i].Key {
		case "name":
			m.Name, ok = plainText(v)
		case "namespace":
			m.Namespace, ok = plainText(v)
		case "labels":
			m.Labels, ok = plainTexts(v)
		case "annotations":
			m.Annotations, ok = plainTexts(v)
		case "creationTimestamp":
			var text string
			if text, ok = plainText(v); ok {
				at, err := time.Parse(time.RFC3339, text)
				m.CreationTimestamp, ok = meta.NewTime(at.Local()), err == nil
			}
		default:
			return false
		}
		if !ok {
			return false
		}
	}
	*o.meta = m
	return true
}

func plainText(n *strictyaml.Node) (string, bool) {
	return n.Text, n.Kind == strictyaml.Scalar && n.Tag == "!!str"
}

func plainTexts(n *strictyaml.Node) (out map[string]string, ok bool) {
	if n.Kind != strictyaml.Mapping {
		return nil, false
	}
	out = make(map[string]string, len(n.Fields))
	for i := range n.Fields {
		if out[n.Fields[i].Key], ok = plainText(n.Fields[i].Value); !ok {
			return nil, false
		}
	}
	return out, true
}

func (rd *batchReader) namespaceOf(n *strictyaml.Node) string {
	if ns := n.At("metadata").Get("namespace"); ns != nil && ns.Kind == strictyaml.Scalar && ns.Text != "" {
		return ns.Text
	}
	return rd.namespace
}

// metaLabels checks the labels and the annotations of an object as the API
// server does.
func (o *object) metaLabels() {
	at := o.root.At("metadata", "labels")
	o.Labels(at, o.meta.Labels)
	for _, key := range slices.Sorted(maps.Keys(o.meta.Labels)) {
		if n := len(o.meta.Labels[key]); n > check.MaxLabelValue {
			o.Errorf(at.At(key), "invalid tag value: it has %d characters, more than %d", n, check.MaxLabelValue)
		}
		if prefix, _, found := strings.Cut(key, "/"); found && !check.IsSubdomain(prefix) && check.IsLabelKey(key) {
			o.Errorf(at.KeyOf(key), "invalid tag key: %q", key)
		}
	}
	at = o.root.At("metadata", "annotations")
	for _, key := range slices.Sorted(maps.Keys(o.meta.Annotations)) {
		if !check.IsLabelKey(strings.ToLower(key)) {
			o.Errorf(at.KeyOf(key), "invalid annotation: %q is not a name, or domain/name", key)
		}
	}
}

func (o *object) validName(name *strictyaml.Node) bool {
	if o.meta.Name == "" {
		o.Errorf(o.root.At("metadata"), "metadata.name is required")
		return false
	}
	ok := true
	switch {
	case len(o.meta.Name) > 253:
		o.Errorf(name, "metadata.name: it has %d characters, more than 253", len(o.meta.Name))
		ok = false
	case !check.IsSubdomain(o.meta.Name):
		o.Errorf(name, "metadata.name: %q is not a DNS-1123 subdomain (lower-case letters, digits, '-' and '.')", o.meta.Name)
		ok = false
	}
	if !check.IsLabel(o.meta.Namespace) {
		o.Errorf(o.root.At("metadata", "namespace"), "metadata.namespace: %q is not a DNS-1123 label", o.meta.Namespace)
		ok = false
	}
	return ok
}
