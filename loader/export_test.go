// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"github.com/cilium/ebpf"

	"github.com/egressd/egressd/loader/bpffs"
	"github.com/egressd/egressd/loader/kernel"
)

// OpenAs is Open of another version: one whose maps and programs differ in
// what change does.
func OpenAs(o Options, change func(*ebpf.CollectionSpec)) (*Datapath, error) { return open(o, change) }

// Links is how many programs Attach attaches.
func (d *Datapath) Links() int { return len(d.hooks()) }

// AttachSome does of Attach what is done when it is interrupted after as many
// links and pins that were replaced.
func (d *Datapath) AttachSome(path string, links, pins int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.attach(path, d.hooks()[:links]); err != nil || pins == 0 {
		return err
	}
	names, err := d.pinStaged()
	if err != nil {
		return err
	}
	return d.publish(names[:min(pins, len(names))])
}

// Hook is a program and its place.
type Hook struct {
	Name   string
	Type   ebpf.ProgramType
	Attach ebpf.AttachType
}

// Hooks lists what Attach attaches.
func (d *Datapath) Hooks() (out []Hook) {
	for _, h := range d.hooks() {
		out = append(out, Hook{h.name, h.prog.Type(), h.attach})
	}
	return out
}

// KillAttach does of Attach what is done when it is killed after as many links.
func (d *Datapath) KillAttach(path string, links int) error {
	if d.first && !d.committed {
		if err := bpffs.Mark(d.opts.PinDir, bpffs.BegunMark); err != nil {
			return err
		}
	}
	return d.AttachSome(path, links, 0)
}

// WithoutTCX makes the programs on interfaces filters, as before kernel 6.6, until restore is called.
func WithoutTCX() (restore func()) {
	was := kernel.HasTCX
	kernel.HasTCX = func() bool { return false }
	return func() { kernel.HasTCX = was }
}
