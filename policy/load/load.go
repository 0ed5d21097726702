// SPDX-License-Identifier: Apache-2.0

// Package load brings a policy from its files to a snapshot, all at once: for
// who reads it once. The daemon reads again and again what has changed.
package load

import (
	"errors"
	"fmt"
	"time"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio"
	"github.com/egressd/egressd/policy/source"
)

// Result is the outcome of reading the configuration.
type Result struct {
	Snapshot *policy.Snapshot
	Findings []istio.Finding
	Took     Took
	// Objects counts the services, virtual services and gateways.
	Services, VirtualServices, Gateways int
	// Secrets are the data of the Kubernetes Secrets, by NAMESPACE/NAME. They go where
	// they are used, and into nothing that is shown or kept.
	Secrets map[string]map[string][]byte `json:"-"`
	// Files are what was read.
	Files []istio.File
	// Empty says that they hold no object that egressd reads.
	Empty bool
	// Refused are the objects of an API server that were left out, sorted by file.
	Refused []Refused
	// Rejected is why the newest files on disk are not in it, but older ones; nil:
	// they are.
	Rejected error
}

// Took is how long the steps of reading the configuration took.
type Took struct {
	Read    time.Duration `json:"read"`    // the files
	Decode  time.Duration `json:"decode"`  // and validate
	Compile time.Duration `json:"compile"` // to a snapshot
}

// ErrPolicy says that the configuration has errors; Result.Findings has them.
var ErrPolicy = errors.New("the policy has errors")

// Paths reads, validates and compiles the policy in paths, for a node
// whose operator allows some node-local endpoints. On ErrPolicy the findings
// say what is wrong.
func Paths(paths []string, gateway map[string]string, allow ...policy.AllowedEndpoint) (Result, error) {
	return PathsWith(paths, istio.Options{GatewaySelector: gateway, AllowEndpoints: allow})
}

// PathsWith is Paths with everything that can be said beside the files.
func PathsWith(paths []string, o istio.Options) (Result, error) {
	start := time.Now()
	files, err := source.Files(paths)
	if err != nil {
		return Result{}, err
	}
	took := time.Since(start)
	l, err := With(files, o)
	l.Took.Read = took
	return l, err
}

// With is Paths for files that have been read, with everything that can be said beside them.
func With(files []istio.File, o istio.Options) (Result, error) {
	start := time.Now()
	config, findings := istio.Load(files, o)
	l := Result{Findings: findings, Files: files, Took: Took{Decode: time.Since(start)}}
	err := l.Compile(config, new(policy.Snapshot))
	return l, err
}

// refused says which objects compiling has refused.
func refused(err error) (out []istio.Finding) {
	var one *policy.ObjectError
	if all, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range all.Unwrap() {
			out = append(out, refused(err)...)
		}
	} else if errors.As(err, &one) {
		out = append(out, finding(istio.Error, istio.CodeRefused, one.Ref, one.Text))
	}
	return out
}

func finding(s istio.Severity, code string, ref policy.Ref, text string) istio.Finding {
	return istio.Finding{
		Severity: s, File: ref.File, Line: ref.Line, Col: ref.Column,
		Object: ref.Kind + " " + ref.Namespace + "/" + ref.Name, Text: text, Code: code,
	}
}

// Compile fills l from a Config, and from what was is compiled from. A nil
// Config is one with errors.
func (l *Result) Compile(config *policy.Config, was *policy.Snapshot) error {
	if config == nil {
		return ErrPolicy
	}
	l.Services, l.VirtualServices, l.Gateways =
		len(config.Services), len(config.VirtualServices), len(config.Gateways)
	start := time.Now()
	s, err := was.Update(config)
	l.Took.Compile = time.Since(start)
	if err != nil {
		l.Findings = append(l.Findings, refused(err)...)
		return fmt.Errorf("%w: %w", ErrPolicy, err)
	}
	l.Snapshot = s
	for _, w := range s.Warnings() {
		l.Findings = append(l.Findings, finding(istio.Warning, istio.CodeServer, w.Ref, w.Text))
	}
	return nil
}
