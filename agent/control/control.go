// SPDX-License-Identifier: Apache-2.0

// Package control brings the policy in force: it reads the configuration, keeps
// the last good one, and leads everything that follows from the policy from one
// to the next, in an order in which nothing is open that neither allows.
package control

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio"
	"github.com/egressd/egressd/policy/load"
	"github.com/egressd/egressd/policy/source"
)

// Options are what a Control goes by.
type Options struct {
	// Config are the files and directories of the policy; none are an empty one.
	Config []string
	// Allow is the part of it in the short form.
	Allow source.Allow
	// GatewaySelector are the labels that the ingress side carries.
	GatewaySelector map[string]string
	// AllowEndpoints are the node-local endpoints that the policy may lead to.
	AllowEndpoints []policy.AllowedEndpoint
	// Cluster is what is inside of the node's Kubernetes cluster; FindCluster
	// adds what the policy's objects say of that.
	Cluster     policy.Cluster
	FindCluster bool
	// AllowEmpty lets files without an object be the policy of no objects.
	AllowEmpty bool
	// LastGood is the file of the last good configuration; "": none is kept.
	LastGood string
	// Objects are those of an API server, beside Config; nil: there is none.
	Objects Objects
	// Secrets takes the Secrets of a policy before it is in force; nil: nobody does.
	Secrets func(map[string]map[string][]byte)
	Log     *slog.Logger
}

// Control has the policy in force.
type Control struct {
	Current
	// Unsaved knows what could not be saved for the next start.
	Unsaved Unsaved

	o      Options
	config *configuration
	report report
	// empty says that the policy in force has no objects.
	empty bool
	// gone says that the file of the last good policy is another daemon's now.
	gone     atomic.Bool
	pipeline atomic.Pointer[Pipeline]
	// wanted is what is to be in force; nil: what is.
	wanted *Loaded
	// said are the findings that were logged, and refused the objects that were left
	// out and why, with an API server.
	said     map[string]bool
	refused  map[string]string
	rejected string // why the newest policy was not applied, as it was logged
	lost     bool   // nothing is known of the cluster, and that was logged
}

// New returns a Control without a policy.
func New(o Options) *Control { return &Control{o: o, config: newConfiguration(o)} }

// Start brings the first policy in force, which is Current already.
func (c *Control) Start(l Loaded, t Targets) error {
	c.config.mu.Lock()
	defer c.config.mu.Unlock()
	c.pipeline.Store(NewPipeline(&c.Current, t))
	return c.apply(l)
}

// Release says that another daemon has the file of the last good policy.
func (c *Control) Release() { c.gone.Store(true) }

// WaitIdle returns when no change of the policy is under way.
func (c *Control) WaitIdle() {
	c.config.mu.Lock()
	defer c.config.mu.Unlock()
}

// Files are the configuration's, as they are now.
func (c *Control) Files() ([]istio.File, error) {
	c.config.mu.Lock()
	defer c.config.mu.Unlock()
	return c.config.read()
}

// apply brings a policy in force.
func (c *Control) apply(l Loaded) error {
	if c.o.Secrets != nil {
		c.o.Secrets(l.Secrets)
	}
	if c.pipeline.Load().has(l.Snapshot) {
		return nil
	}
	start := time.Now()
	err := c.pipeline.Load().Apply(l.Snapshot)
	c.wanted = nil
	if err != nil {
		c.wanted = &l
	}
	if c.Snapshot() == l.Snapshot {
		c.o.Log.Info("policy applied", "hash", l.Snapshot.Hash()[:12],
			"services", l.Services, "virtual_services", l.VirtualServices, "gateways", l.Gateways,
			"read", l.Took.Read, "decode", l.Took.Decode, "compile", l.Took.Compile, "apply", time.Since(start))
		c.sayCluster()
	}
	return err
}

// Reload reads the policy again and applies it. On any error of the files the
// old policy stays and the status says what is wrong.
func (c *Control) Reload() {
	c.config.mu.Lock()
	defer c.config.mu.Unlock()
	c.reloaded(c.config.load(c.Snapshot()))
}

// reloaded applies what was read.
func (c *Control) reloaded(l Loaded, err error) {
	if !c.empty {
		err = c.config.refuses(l, err)
	}
	if err == nil {
		if err = c.apply(l); err == nil {
			c.empty = l.Empty
		}
	}
	c.logFindings(l.Findings)
	c.logRefused(l.Refused)
	c.report.loaded(l, err, time.Now())
	c.logRejected(cmp.Or(err, l.Rejected))
	if err != nil {
		c.config.unseen = false // the reader has gone on to the one with the error
		return
	}
	c.config.later(l, true)
}

// retry brings in force what could not be.
func (c *Control) retry() {
	c.config.mu.Lock()
	defer c.config.mu.Unlock()
	if c.wanted == nil {
		return
	}
	l := *c.wanted
	if err := c.apply(l); err != nil {
		return // it is said in the status, and was logged
	}
	c.empty = l.Empty
	c.o.Log.Info("policy applied, after an earlier attempt failed", "hash", l.Snapshot.Hash()[:12])
	c.report.loaded(l, nil, time.Now())
	c.config.later(l, true)
}

func (c *Control) logNotApplied(err error) {
	var step *StepError
	switch {
	case errors.Is(err, errEmpty):
		c.o.Log.Warn("policy not applied; the previous one stays in force, also for new connections", "error", err)
	case errors.As(err, &step) && step.InForce:
		c.o.Log.Error("policy applied in part; some of what it allows may be denied, and nothing is allowed that neither it nor the previous one allows; egressd tries again every ten seconds", "error", err)
	default:
		c.o.Log.Error("policy not applied; the previous one stays in force, also for new connections", "error", err)
	}
}

// Keep does again what failed: it brings the policy in force, and has it saved.
func (c *Control) Keep() {
	c.retry()
	if c.Unsaved.all()[SavedPolicy] == nil {
		return
	}
	select {
	case c.config.changed <- struct{}{}:
	default:
	}
}

// Failed is the step that failed when the newest policy was brought in force;
// nil: none.
func (c *Control) Failed() *StepFailure {
	if p := c.pipeline.Load(); p != nil {
		return p.Failed()
	}
	return nil // nothing is in force yet
}

// logFindings logs what the policy's reader found.
func (c *Control) logFindings(findings []istio.Finding) {
	if c.o.Objects != nil {
		c.logNew(findings)
		return
	}
	for _, f := range findings {
		level, msg := levelOf(f)
		c.o.Log.Log(context.Background(), level, msg, "finding", f.String())
	}
}

// PolicyStatus is the part of the status about the configuration.
type PolicyStatus struct {
	Hash            string    `json:"hash"`
	Loaded          time.Time `json:"loaded"`
	Services        int       `json:"services"`
	VirtualServices int       `json:"virtualServices"`
	Gateways        int       `json:"gateways"`
	// Error is why the newest files were not applied; the policy with Hash
	// is then older than the files.
	Error   string    `json:"error,omitempty"`
	ErrorAt time.Time `json:"errorAt,omitzero"`
	// Failed is the step that failed when the newest policy was brought in force.
	Failed *StepFailure `json:"failed,omitempty"`
	// Refused are the objects of the API server that have errors and are left out.
	Refused []load.Refused `json:"refused,omitempty"`
	// Cluster is what is inside of the node's cluster; nil: it is part of none.
	Cluster *ClusterStatus `json:"cluster,omitempty"`
}

// report is what is known of the configuration.
type report struct {
	mu       sync.Mutex
	policy   PolicyStatus
	findings []istio.Finding
}

// loaded records the outcome of reading the configuration.
func (r *report) loaded(l Loaded, err error, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.findings = slices.DeleteFunc(slices.Clone(l.Findings), func(f istio.Finding) bool {
		return f.Severity == istio.Note
	})
	var step *StepError
	if err == nil || errors.As(err, &step) && step.InForce {
		r.policy = PolicyStatus{
			Hash: l.Snapshot.Hash(), Loaded: now,
			Services: l.Services, VirtualServices: l.VirtualServices, Gateways: l.Gateways, Refused: l.Refused,
		}
	}
	if err == nil {
		err = l.Rejected
	}
	if err == nil {
		return
	}
	r.policy.Error, r.policy.ErrorAt = err.Error(), now
	if !errors.Is(err, load.ErrPolicy) {
		return
	}
	for _, f := range r.findings {
		if f.Severity == istio.Error && !source.IsObject(f.File) {
			r.policy.Error = f.String()
			break
		}
	}
}

// found adds findings about what was loaded.
func (r *report) found(findings []istio.Finding) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.findings = append(r.findings, findings...) // a list of our own
}

// Report is what is known of the policy, and what its readers found.
func (c *Control) Report() (PolicyStatus, []istio.Finding) {
	r := &c.report
	r.mu.Lock()
	p, findings := r.policy, slices.Clone(r.findings)
	r.mu.Unlock()
	p.Failed, p.Cluster = c.Failed(), c.o.clusterStatus(c.Snapshot())
	return p, findings
}
