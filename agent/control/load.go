// SPDX-License-Identifier: Apache-2.0

package control

import (
	"errors"
	"runtime/debug"
	"time"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio"
	"github.com/egressd/egressd/policy/source"
)

// Loaded is the outcome of reading the configuration.
type Loaded struct {
	Snapshot *policy.Snapshot
	Findings []istio.Finding
	Took     Took
	// Objects counts the services, virtual services and gateways.
	Services, VirtualServices, Gateways int
	// Files are what was read.
	Files []istio.File
	// Empty says that they hold no object that egressd reads.
	Empty bool
}

// Took is how long the steps of reading the configuration took.
type Took struct {
	Read    time.Duration `json:"read"`    // the files
	Decode  time.Duration `json:"decode"`  // and validate
	Compile time.Duration `json:"compile"` // to a snapshot
}

// ErrPolicy says that the configuration has errors; Loaded.Findings has them.
var ErrPolicy = errors.New("the policy has errors")

// LoadPolicy reads, validates and compiles the policy in paths, for a node
// whose operator allows some node-local endpoints. On ErrPolicy the findings
// say what is wrong.
func LoadPolicy(paths []string, gateway map[string]string, allow ...policy.AllowedEndpoint) (Loaded, error) {
	start := time.Now()
	files, err := source.Files(paths)
	if err != nil {
		return Loaded{}, err
	}
	took := time.Since(start)
	l, err := LoadFiles(files, gateway, allow...)
	l.Took.Read = took
	return l, err
}

// LoadFiles is LoadPolicy for files that have been read.
func LoadFiles(files []istio.File, gateway map[string]string, allow ...policy.AllowedEndpoint) (Loaded, error) {
	start := time.Now()
	config, findings := istio.Load(files, istio.Options{GatewaySelector: gateway, AllowEndpoints: allow})
	l := Loaded{Findings: findings, Files: files, Took: Took{Decode: time.Since(start)}}
	err := l.compile(config, new(policy.Snapshot))
	return l, err
}

// bigPolicy is how long loading takes when it is worth to clean up behind it.
const bigPolicy = 100 * time.Millisecond

// release gives the memory back that loading a big policy took: it is several
// times what the policy itself needs, and nothing else will need it soon.
func release(t Took) {
	if t.Read+t.Decode+t.Compile > bigPolicy {
		debug.FreeOSMemory()
	}
}
