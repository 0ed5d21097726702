// SPDX-License-Identifier: Apache-2.0

package learn

import (
	"slices"

	"github.com/egressd/egressd/policy/allowlist"
	"github.com/egressd/egressd/policy/istio"
)

// The annotation with which an object accepts a warning, and the code of the one about a
// protocol that is unusual on a port (docs/CODES.md).
const (
	suppress        = "egressd.dev/suppress"
	unusualProtocol = "EGD2006"
)

// accept says in the objects that what is unusual in them was seen so, as TLS where most
// servers speak something else: the warning about it is not printed again.
func (p *Proposal) accept() {
	files := make([]istio.File, 0, len(p.objects))
	for _, o := range p.objects {
		if text, err := o.yaml(); err == nil {
			files = append(files, istio.File{Name: o.file(), Data: []byte(text)})
		}
	}
	_, findings := istio.Load(files, istio.Options{})
	for i := range p.objects {
		o := &p.objects[i]
		e, ok := o.value.(*allowlist.ServiceEntry)
		if !ok {
			continue
		}
		at := slices.IndexFunc(findings, func(f istio.Finding) bool { return f.File == o.file() && f.Code == unusualProtocol })
		if at >= 0 {
			o.comments = append(o.comments, "it was seen so, although: "+findings[at].Text)
			e.Metadata.Annotations = map[string]string{suppress: unusualProtocol}
		}
	}
}

// file tells an object from others.
func (o object) file() string { return o.namespace + "/" + o.name }
