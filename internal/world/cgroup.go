// SPDX-License-Identifier: Apache-2.0

package world

import "github.com/egressd/egressd/internal/cgroup"

// prefix starts the name of everything that this package puts into a place
// that others share; the pid of the maker follows.
const prefix = cgroup.Prefix

// Cgroup is a cgroup v2 directory that this process made.
type Cgroup = cgroup.Cgroup

// CgroupRoot finds where cgroup v2 is mounted.
func CgroupRoot() (string, error) { return cgroup.Root() }

// MakeCgroup makes a cgroup of that path.
func MakeCgroup(path string) (*Cgroup, error) { return cgroup.Make(path) }

// NewCgroup makes a cgroup directly under the cgroup2 mount.
func NewCgroup(name string) (*Cgroup, error) { return cgroup.New(name) }
