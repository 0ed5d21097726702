// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"sync"

	"github.com/cilium/ebpf"

	"github.com/egressd/egressd/loader/grow"
	"github.com/egressd/egressd/loader/tables"
)

// grown are the tables of the policy that grow.
type grown struct {
	addrs     *grow.Table[tables.AddrKey, tables.Verdict]
	known     *grow.Table[tables.KnownKey, uint32]
	endpoints *grow.Table[tables.EndpointKey, tables.Endpoint]
	names     *grow.Table[tables.NameKey, uint32]
}

// openGrown opens them in their arrays, all at once: the kernel waits after a table
// is put into its array until no program can have the old one, and it waits once
// for all of them.
func openGrown(d *Datapath, spec *ebpf.CollectionSpec) (g grown, err error) {
	addrs, others := d.opts.Sizes.Addresses, d.opts.Sizes.Addresses/4
	var all sync.WaitGroup
	var errs [4]error
	all.Go(func() {
		g.addrs, errs[0] = grow.Open[tables.AddrKey, tables.Verdict]("egd_addrs", d.objs.EgdAddrs, spec, addrs, d.growthNeeds)
	})
	all.Go(func() {
		g.known, errs[1] = grow.Open[tables.KnownKey, uint32]("egd_known", d.objs.EgdKnown, spec, addrs, d.growthNeeds)
	})
	all.Go(func() {
		g.endpoints, errs[2] = grow.Open[tables.EndpointKey, tables.Endpoint]("egd_endpoints", d.objs.EgdEndpoints, spec, others, d.growthNeeds)
	})
	all.Go(func() {
		g.names, errs[3] = grow.Open[tables.NameKey, uint32]("egd_names", d.objs.EgdNames, spec, others, d.growthNeeds)
	})
	all.Wait()
	return g, errors.Join(errs[:]...)
}

func (g *grown) bytes() uint64 {
	return g.addrs.Bytes() + g.known.Bytes() + g.endpoints.Bytes() + g.names.Bytes()
}

func (g *grown) close() error {
	return errors.Join(g.addrs.Close(), g.known.Close(), g.endpoints.Close(), g.names.Close())
}
