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
	"github.com/cilium/ebpf/rlimit"

	"github.com/egressd/egressd/bpf"
	"github.com/egressd/egressd/internal/netns"
	"github.com/egressd/egressd/loader/bpffs"
	"github.com/egressd/egressd/loader/grow"
	"github.com/egressd/egressd/loader/kernel"
	"github.com/egressd/egressd/loader/layout"
	"github.com/egressd/egressd/loader/predecessor"
	"github.com/egressd/egressd/loader/telemetry"
)

// Open loads the programs. Where PinDir holds maps already they are taken
// over with their contents, so that flows keep their verdicts. Tables of another
// layout are made anew, to be filled by the caller before Attach puts them and
// the programs in the place of the old ones. Nothing is attached yet. It returns
// layout.ErrMismatch when what belongs to open sockets has another layout.
func Open(o Options) (*Datapath, error) { return open(o, func(*ebpf.CollectionSpec) {}) }

// open lets tests be other versions.
func open(o Options, change func(*ebpf.CollectionSpec)) (*Datapath, error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, kernel.Explain(fmt.Errorf("raise the locked memory limit: %w", err))
	}
	if err := bpffs.Make(o.PinDir); err != nil {
		return nil, err
	}
	spec, err := bpf.LoadEgressd()
	if err != nil {
		return nil, fmt.Errorf("read the embedded programs: %w", err)
	}
	o.Sizes = o.Sizes.withDefaults()
	o.Sizes.apply(spec)
	change(spec)
	if err := kernel.TellReads(spec, o.Reads); err != nil {
		return nil, fmt.Errorf("know cgroups by their names: %w", err)
	}
	t, err := openPinned(o, spec)
	if err != nil {
		return nil, err
	}
	defer t.close()

	d := &Datapath{opts: o, links: map[string]link.Link{}, guarded: map[int]*guardedInterface{}, staged: map[string]bool{}, pins: bpffs.NewPinKeeper(o.PinDir), ids: map[*ebpf.Program]ebpf.ProgramID{}}
	for name, waits := range t.staged {
		if waits {
			d.staged[name] = true
		}
	}
	before, err := predecessor.Read(o.PinDir)
	if err != nil {
		return nil, err
	}
	d.first = !before.AtWork()
	// Maps, and links but the last, are what a start that failed leaves.
	hooks := d.hooks()
	last := bpffs.LinkPrefix + hooks[len(hooks)-1].name
	_, err = os.Stat(filepath.Join(o.PinDir, last))
	d.adopted = err == nil
	if d.earlier, err = predecessor.ReadEarlier(o.PinDir, last); err != nil {
		return nil, err
	}
	d.adoptedFlows = d.adopted && t.has(layout.FlowTables)
	if err := d.load(t, spec); err != nil {
		return nil, err
	}
	if err := d.start(t); err != nil {
		return nil, errors.Join(err, d.grown.close(), d.unpinMaps(), d.objs.Close())
	}
	d.before.m, t.origins = t.origins, nil
	return d, nil
}

// load makes the tables and loads the programs.
func (d *Datapath) load(t *upgrade, spec *ebpf.CollectionSpec) error {
	needs := startNeeds(spec, t.old)
	if err := grow.AwaitMemory(needs, givenBack); err != nil {
		return err
	}
	for name, m := range spec.Maps {
		d.fixed += grow.EmptySize(m)
		if slices.Contains(layout.Renewed[layout.PolicyTables], name) {
			d.renewing += grow.EmptySize(m)
		}
	}
	n := loaders(func(n int) bool { return grow.CheckMemory(needs+uint64(n-1)*verifying) == nil })
	open := func() (err error) {
		d.grown, err = openGrown(d, spec)
		return err
	}
	beside, after := open, func() error { return nil }
	if !d.first || len(t.old) > 0 { // tables of others are not touched until all programs are known to be good
		beside, after = nil, open
	}
	if err := loadObjects(&d.objs, spec, t.old, n, beside); err != nil {
		err = errors.Join(err, d.grown.close())
		var ve *ebpf.VerifierError
		if errors.As(err, &ve) {
			return kernel.Explain(fmt.Errorf("the kernel's verifier refused a program: %+v", ve))
		}
		return kernel.Explain(fmt.Errorf("load the kernel programs: %w", err))
	}
	if err := after(); err != nil {
		return errors.Join(err, d.grown.close(), d.objs.Close())
	}
	return nil
}

func (d *Datapath) start(t *upgrade) error {
	if err := d.beginConfig(t); err != nil {
		return err
	}
	if err := d.pinMaps(t); err != nil {
		return err
	}
	cookie, err := netns.Cookie()
	if err != nil {
		return err
	}
	d.config.NetnsCookie = cookie
	if d.tables, err = d.openTables(); err != nil {
		return err
	}
	if d.usage, err = mapUsage(d.objs.EgdUsage); err != nil {
		return err
	}
	d.events, err = telemetry.OpenRing(d.objs.EgdEvents)
	if err != nil {
		return errors.Join(err, d.usage.close())
	}
	return nil
}

// Close releases the handles. Pinned maps and links stay and go on working.
func (d *Datapath) Close() error {
	err := d.events.Close()
	d.forgetBefore()
	err = errors.Join(err, d.CloseLinks())
	d.mu.Lock()
	defer d.mu.Unlock()
	return errors.Join(err, d.grown.close(), d.usage.close(), d.objs.Close())
}

// CloseLinks releases the handles of the links alone, which would keep the
// programs attached after somebody has removed the pins.
func (d *Datapath) CloseLinks() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var err error
	for name, l := range d.links {
		err = errors.Join(err, l.Close())
		delete(d.links, name)
	}
	for index, g := range d.guarded {
		err = errors.Join(err, g.close())
		delete(d.guarded, index)
	}
	return err
}
