// SPDX-License-Identifier: Apache-2.0

package kubetest

import (
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/egressd/egressd/internal/testenv"
)

// Start starts a cluster that ends with the test.
func Start(t testing.TB, o Options) *Cluster {
	t.Helper()
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// Shared is a cluster that the tests of a package share: each with a namespace
// of its own. It starts when the first one asks for it.
type Shared struct {
	// Options of the cluster.
	Options Options

	once    sync.Once
	cluster *Cluster
	err     error
}

// Cluster is the cluster.
func (s *Shared) Cluster(t testing.TB) *Cluster {
	t.Helper()
	s.once.Do(func() { s.cluster, s.err = New(s.Options) })
	if s.err != nil {
		t.Fatal(s.err)
	}
	return s.cluster
}

// Main is testenv.Main, and ends the cluster before it looks for leaks. Use it as
//
//	var shared kubetest.Shared
//
//	func TestMain(m *testing.M) { os.Exit(shared.Main(m)) }
func (s *Shared) Main(m *testing.M, pinDirs ...string) int {
	return testenv.Main(ending{m, s}, pinDirs...)
}

// ending runs tests and ends their cluster.
type ending struct {
	m *testing.M
	s *Shared
}

func (e ending) Run() int {
	code := e.m.Run()
	if e.s.cluster == nil {
		return code
	}
	if err := e.s.cluster.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "ending the cluster:", err)
		return max(code, 1)
	}
	return code
}
