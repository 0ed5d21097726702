// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
)

const (
	// policyFiles is in how many files a big policy comes.
	policyFiles = 100
	// smallHosts and bigHosts are the sizes that are compared.
	smallHosts, bigHosts = 10, 100_000
)

// shape is a way to write a policy down.
type shape struct {
	name string
	// hosts are the exact ones; there are a tenth as many wildcards.
	hosts int
	// each is how many hosts a ServiceEntry has.
	each int
	// addresses are fixed ones: each is an entry of the kernel's table.
	addresses int
}

func shapes() []shape {
	return []shape{
		{name: "10 hosts and addresses", hosts: smallHosts, each: 1, addresses: smallHosts},
		{name: "100,000 hosts, 100 to an entry", hosts: bigHosts, each: 100},
		{name: "100,000 hosts, one to an entry", hosts: bigHosts, each: 1},
		{name: "100,000 hosts and addresses", hosts: bigHosts, each: 100, addresses: bigHosts},
	}
}

// files writes the policy, by file name.
func (s shape) files() map[string][]byte {
	var docs [][]byte
	docs = append(docs, entries("exact", s.hosts, s.each, "DNS", func(i int) string {
		return fmt.Sprintf("h%d.example%d.com", i, i%997)
	})...)
	docs = append(docs, entries("wild", s.hosts/10, s.each, "NONE", func(i int) string {
		return fmt.Sprintf("\"*.w%d.example.org\"", i)
	})...)
	docs = append(docs, fixed(s.addresses)...)
	out := map[string][]byte{}
	each := (len(docs) + policyFiles - 1) / policyFiles
	for i := 0; i < len(docs); i += each {
		out[fmt.Sprintf("policy-%02d.yaml", len(out))] = bytes.Join(docs[i:min(i+each, len(docs))], []byte("---\n"))
	}
	return out
}

// entry is a ServiceEntry for HTTPS.
func entry(name, resolution string, hosts []string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata:\n  name: %s\nspec:\n  hosts:\n", name)
	for _, h := range hosts {
		fmt.Fprintf(&b, "  - %s\n", h)
	}
	fmt.Fprintf(&b, "  location: MESH_EXTERNAL\n  ports:\n  - number: 443\n    name: https\n    protocol: HTTPS\n  resolution: %s\n", resolution)
	return b.Bytes()
}

// entries are ServiceEntries for n hosts.
func entries(name string, n, each int, resolution string, host func(int) string) (docs [][]byte) {
	for i := 0; i < n; i += each {
		var hosts []string
		for j := i; j < min(i+each, n); j++ {
			hosts = append(hosts, host(j))
		}
		docs = append(docs, entry(fmt.Sprintf("%s-%d", name, i), resolution, hosts))
	}
	return docs
}

// fixed are ServiceEntries for n addresses, 250 to each.
func fixed(n int) (docs [][]byte) {
	for i := 0; i < n; {
		var b bytes.Buffer
		fmt.Fprintf(&b, "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata:\n  name: fixed-%d\nspec:\n  hosts:\n  - fixed-%d.example.net\n"+
			"  ports:\n  - number: 443\n    name: tcp\n    protocol: TCP\n  resolution: STATIC\n  endpoints:\n", i, i)
		for range min(250, n-i) {
			fmt.Fprintf(&b, "  - address: 10.%d.%d.%d\n", i>>16&255, i>>8&255, i&255)
			i++
		}
		docs = append(docs, b.Bytes())
	}
	return docs
}
