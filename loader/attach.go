// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/egressd/egressd/internal/cgroup"
	"github.com/egressd/egressd/loader/bpffs"
	"github.com/egressd/egressd/loader/foreign"
	"github.com/egressd/egressd/loader/kernel"
)

// Attach attaches every program to the cgroup at path and pins the links, or
// leaves all as it was. A link that is pinned already is kept and its program
// replaced atomically. The tables must be full: the first program that is replaced
// goes by them. Then what another version left is removed. Attaching again, when
// the cgroup was made anew, leaves the one before.
func (d *Datapath) Attach(path string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.first && !d.committed {
		if err := bpffs.Mark(d.opts.PinDir, bpffs.BegunMark); err != nil {
			return err
		}
	}
	hooks := d.hooks()
	if err := d.attach(path, hooks); err != nil {
		return errors.Join(err, bpffs.Unmark(d.opts.PinDir, bpffs.BegunMark))
	}
	if err := d.commit(); err != nil {
		return err
	}
	d.committed = true
	info, err := d.links[hooks[0].name].Info()
	if err != nil {
		return fmt.Errorf("read a link: %w", err)
	}
	d.path, d.cgroup = path, 0
	if c := info.Cgroup(); c != nil { // which may be gone again
		d.cgroup = c.CgroupId
	}
	return bpffs.Unmark(d.opts.PinDir, bpffs.BegunMark, bpffs.LockedMark)
}

// attach is Attach for some of the programs.
func (d *Datapath) attach(path string, hooks []hook) error {
	var done []attached
	for _, h := range hooks {
		one, err := d.attachOne(path, h)
		if err != nil {
			err = fmt.Errorf("attach %s to cgroup %s: %w", h.name, path, explainAttach(err))
			for _, one := range slices.Backward(done) { // what redirects goes first
				err = errors.Join(err, one.undo())
			}
			return err
		}
		one.name = h.name
		done = append(done, one)
	}
	for _, one := range done {
		if before := d.links[one.name]; before != nil {
			before.Close() // its pin is gone, and with this the link
		}
		d.links[one.name] = one.link
		one.forget()
	}
	return nil
}

// attached is a program that attachOne has put in its place.
type attached struct {
	name string
	link link.Link
	// undo makes all as it was before; forget gives up what is kept for that. One
	// of them must be called.
	undo   func() error
	forget func()
}

func (d *Datapath) attachOne(path string, h hook) (attached, error) {
	pin := filepath.Join(d.opts.PinDir, bpffs.LinkPrefix+h.name)
	l, err := link.LoadPinnedLink(pin, nil)
	if errors.Is(err, os.ErrNotExist) {
		return attachFresh(path, h, pin)
	}
	if err != nil {
		return attached{}, fmt.Errorf("open the pinned link: %w", err)
	}
	id, err := cgroup.ID(path)
	if err != nil {
		l.Close()
		return attached{}, err
	}
	var one attached
	if info, ierr := l.Info(); ierr == nil && info.Cgroup() != nil && info.Cgroup().CgroupId == id {
		one, err = replaceProgram(l, info.Program, h)
	} else {
		// Pinned for another cgroup, or for one that is gone: attach anew before
		// the old link goes, so that there is no gap.
		one, err = replaceLink(l, path, h, pin)
	}
	if err != nil {
		l.Close()
	}
	return one, err
}

// attachFresh attaches and pins where nothing is.
func attachFresh(path string, h hook, pin string) (attached, error) {
	l, err := foreign.AttachCgroup(path, h.prog, h.attach)
	if err != nil {
		return attached{}, err
	}
	if err := l.Pin(pin); err != nil {
		l.Close()
		return attached{}, fmt.Errorf("pin the link: %w", err)
	}
	return attached{link: l, undo: func() error { return errors.Join(l.Unpin(), l.Close()) }, forget: func() {}}, nil
}

// replaceProgram gives a link another program.
func replaceProgram(l link.Link, was ebpf.ProgramID, h hook) (attached, error) {
	old, err := ebpf.NewProgramFromID(was)
	if err != nil {
		return attached{}, fmt.Errorf("open the program that is attached: %w", err)
	}
	if err := l.Update(h.prog); err != nil {
		old.Close()
		return attached{}, fmt.Errorf("replace the program: %w", err)
	}
	return attached{
		link:   l,
		undo:   func() error { return errors.Join(l.Update(old), old.Close(), l.Close()) },
		forget: func() { old.Close() },
	}, nil
}

// replaceLink attaches anew and pins that in the place of a link.
func replaceLink(old link.Link, path string, h hook, pin string) (attached, error) {
	l, err := foreign.AttachCgroup(path, h.prog, h.attach)
	if err != nil {
		return attached{}, err
	}
	if err := old.Unpin(); err != nil {
		l.Close()
		return attached{}, err
	}
	if err := l.Pin(pin); err != nil {
		l.Close()
		return attached{}, errors.Join(fmt.Errorf("pin the link: %w", err), old.Pin(pin))
	}
	return attached{
		link:   l,
		undo:   func() error { return errors.Join(l.Unpin(), old.Pin(pin), l.Close(), old.Close()) },
		forget: func() { old.Close() },
	}, nil
}

// Attached lists the attached programs with their kernel ids.
func (d *Datapath) Attached() map[string]uint32 {
	d.mu.Lock()
	defer d.mu.Unlock()
	ids := map[string]uint32{}
	for name, l := range d.links {
		// One whose cgroup is gone is attached to nothing.
		if info, err := l.Info(); err == nil && info.Cgroup() != nil && info.Cgroup().CgroupId != 0 {
			ids[name] = uint32(info.Program)
		}
	}
	for _, g := range d.guarded {
		for _, p := range d.tcPrograms(g.Kind) {
			if info, err := p.Prog.Info(); err == nil {
				if id, ok := info.ID(); ok {
					ids[p.Name] = uint32(id)
				}
			}
		}
	}
	return ids
}

// explainAttach says what can be done about an error of attaching to a cgroup.
func explainAttach(err error) error {
	if errors.Is(err, foreign.ErrInTheWay) { // which says so
		return err
	}
	return kernel.Explain(err)
}
