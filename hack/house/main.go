// SPDX-License-Identifier: Apache-2.0

// Command house measures the module: how long its files and functions are, and
// how far the files of its big packages stand in an order. Run it where go.mod
// is.
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/egressd/egressd/internal/house"
)

func main() {
	write := flag.String("write", "", "a document whose table of figures is written anew")
	up := flag.String("up", "", "list the arrows up of a package (./policy) instead")
	flag.Parse()
	if err := run(*write, *up); err != nil {
		fmt.Fprintln(os.Stderr, "house:", err)
		os.Exit(1)
	}
}

func run(write, up string) error {
	if up != "" {
		return list(up)
	}
	h, err := house.Measure(".")
	if err != nil {
		return err
	}
	fmt.Print(h.Table())
	if write == "" {
		return nil
	}
	return h.WriteTable(write)
}

func list(name string) error {
	for _, o := range house.Orders {
		if o.Package != name {
			continue
		}
		arrows, err := house.Arrows(".", name)
		if err != nil {
			return err
		}
		up, err := o.Up(arrows)
		if err != nil {
			return err
		}
		for _, a := range up {
			fmt.Printf("%s uses %s: %s\n", a.From, a.To, strings.Join(a.Symbols, " "))
		}
		return nil
	}
	return fmt.Errorf("%s has no order in internal/house/stages.go", name)
}
