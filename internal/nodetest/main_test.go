// SPDX-License-Identifier: Apache-2.0

//go:build node

package nodetest

import (
	"flag"
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/egressd/egressd/internal/testenv"
)

var mode = flag.String("mode", "hybrid", "how the node sees cgroups: hybrid or unified")

// one is the node that the tests share, which the first one starts.
var one struct {
	once sync.Once
	node *Node
	err  error
}

func node(t testing.TB) *Node {
	t.Helper()
	testenv.RequireCgroup2(t)
	one.once.Do(func() { one.node, one.err = New(*mode) })
	if one.err != nil {
		t.Fatal(one.err)
	}
	return one.node
}

// run ends the node after the tests, before somebody looks for leaks.
type run struct{ m *testing.M }

func (r run) Run() int {
	code := r.m.Run()
	if one.node == nil {
		return code
	}
	if err := one.node.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "ending the node:", err)
		return max(code, 1)
	}
	return code
}

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(testenv.Main(run{m}))
}
