// SPDX-License-Identifier: Apache-2.0

package control

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/egressd/egressd/policy"
)

// Target keeps something that follows from the policy, and is brought along in
// two calls. Both repeat what failed before when they are called for a change
// from what is not known (policy.Change.Old).
type Target interface {
	// Tighten takes away what a change no longer allows, and opens nothing. The
	// policy before is still in force.
	Tighten(policy.Change) error
	// Loosen brings what the policies of a change open to exactly what it says.
	Loosen(policy.Change) error
}

// Keeper is a Target that keeps something for each policy.
type Keeper interface {
	Target
	// Retire takes away what it has of policies that are not there after a change.
	Retire(policy.Change) error
}

// Targets are all that follows from the policy. The ones that are nil are not
// there.
type Targets struct {
	// Tables are the kernel's tables, Learned the learned addresses.
	Tables, Learned Keeper
	// Workloads say which workload has which policy. Loosen is called first for
	// the policies that nobody leaves, and lets workloads change over, and then
	// for the others.
	Workloads Target
	// Epoch makes the kernel decide connections again that it let pass.
	Epoch func() error
	// Recheck ends the connections in the core that are denied now.
	Recheck func()
	// Gateway opens and closes the gateway's listeners.
	Gateway func(*policy.Snapshot) error
	// Fixed are policies that no snapshot has, with what they open.
	Fixed map[policy.PolicyID][]policy.Opening
}

// Step is one step of the way from one policy to the next.
type Step struct {
	Name string
	do   func(policy.Change) error
	// ends says that the policy before stays in force when the step fails.
	ends bool
	// opens says that it opens what a policy names, which under ALLOW_ANY closes as
	// well. When it fails nobody gets what policies do not name.
	opens bool
	// binds says that workloads change over in it. What needs that, or gives them
	// what policies do not name, is left out when it, or that, fails.
	binds, needs, gives bool
}

// StepError says which step failed.
type StepError struct {
	Step string
	// InForce says that the new policy is in force, in part: nothing is open that
	// it or the one before does not allow.
	InForce bool
	Err     error
}

func (e *StepError) Error() string { return fmt.Sprintf("%s: %v", e.Step, e.Err) }

func (e *StepError) Unwrap() error { return e.Err }

// StepFailure is a step that failed.
type StepFailure struct {
	Step  string    `json:"step"`
	Error string    `json:"error"`
	Since time.Time `json:"since"`
	// InForce: see StepError.
	InForce bool `json:"inForce"`
}

// Pipeline brings policies in force.
type Pipeline struct {
	current *Current
	targets Targets
	steps   []Step

	mu sync.Mutex
	// inStep says that everything is exactly as the snapshot says.
	inStep bool
	// bound is the snapshot that workloads have their policies by; nil: none.
	bound  *policy.Snapshot
	failed *StepFailure
}

// NewPipeline returns one that knows nothing of what there is.
func NewPipeline(current *Current, t Targets) *Pipeline {
	p := &Pipeline{current: current, targets: t}
	p.steps = p.order()
	return p
}

// order are the steps. At no time is anything open that neither the policy
// before nor the next one allows, and nothing is shut that both allow: what is
// closed goes first, in the kernel and then in user space, and what opens comes
// last. Policies that workloads leave open nothing before these have left them.
func (p *Pipeline) order() []Step {
	t := p.targets
	free := func(do func(policy.Change) error) func(policy.Change) error {
		return func(c policy.Change) error { return do(c.Left(false)) }
	}
	left := func(do func(policy.Change) error) func(policy.Change) error {
		return func(c policy.Change) error {
			if c = c.Left(true); len(c.Policies) == 0 {
				return nil
			}
			return do(c)
		}
	}
	return []Step{
		{Name: "workloads lose what is not open any more", do: t.Workloads.Tighten, ends: true},
		{Name: "kernel tables are tightened", do: t.Tables.Tighten, ends: true},
		{Name: "learned addresses are tightened", do: t.Learned.Tighten, ends: true},
		{Name: "decisions go by the new policy", do: p.swap},
		{Name: "learned addresses are opened", do: free(t.Learned.Loosen), opens: true},
		{Name: "kernel tables are opened", do: free(t.Tables.Loosen), opens: true},
		{Name: "workloads change over", do: p.bind, binds: true},
		{Name: "learned addresses of policies that workloads left", do: left(t.Learned.Loosen), needs: true, opens: true},
		{Name: "kernel tables of policies that workloads left", do: left(t.Tables.Loosen), needs: true, opens: true},
		{Name: "workloads get what is open now", do: left(t.Workloads.Loosen), needs: true, gives: true},
		{Name: "kernel tables of policies that are gone", do: t.Tables.Retire, needs: true},
		{Name: "learned addresses of policies that are gone", do: t.Learned.Retire, needs: true},
		{Name: "open connections are decided again in the kernel", do: func(policy.Change) error { return t.Epoch() }},
		{Name: "open connections are decided again in the core", do: func(policy.Change) error { t.Recheck(); return nil }},
		{Name: "gateway listeners", do: func(c policy.Change) error { return t.Gateway(c.Next) }},
	}
}

func (p *Pipeline) swap(c policy.Change) error {
	p.current.swap(c)
	return nil
}

// bind lets the workloads change over, in the kernel and in user space.
func (p *Pipeline) bind(c policy.Change) error {
	if err := p.targets.Workloads.Loosen(c.Left(false)); err != nil {
		return err
	}
	p.bound = c.Next
	p.current.Set(c.Next)
	return nil
}

// Steps are the names of the steps in their order.
func (p *Pipeline) Steps() []string {
	var out []string
	for _, s := range p.steps {
		out = append(out, s.Name)
	}
	return out
}

// has says whether a snapshot is in force, exactly.
func (p *Pipeline) has(s *policy.Snapshot) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.inStep && p.current.Snapshot().Same(s)
}

// Apply brings a snapshot in force. It costs what has changed, unless it failed
// the time before: then everything is compared with everything that there is.
// The error is a StepError for each step that failed.
func (p *Pipeline) Apply(next *policy.Snapshot) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.change(p.current.Snapshot(), next)
	p.inStep = false
	err := p.run(c)
	p.inStep = err == nil
	p.note(err)
	return err
}

// change is what leads from what there is to next.
func (p *Pipeline) change(old, next *policy.Snapshot) policy.Change {
	if !p.inStep {
		old = nil
	}
	c := policy.Diff(old, next)
	if old == nil && p.bound != nil {
		c.Moves = policy.Moves(p.bound, next)
		for i, one := range c.Policies {
			was := p.bound.Policy(one.ID)
			c.Policies[i].Unknown = was != nil && was.Narrows() && one.Next.Narrows()
		}
	}
	for id, openings := range p.targets.Fixed {
		c.Add(id, openings...)
	}
	return c
}

func (p *Pipeline) run(c policy.Change) error {
	var errs []error
	inForce, bound, opened := false, true, true
	for _, s := range p.steps {
		if s.needs && !bound || s.gives && !opened {
			continue
		}
		now := c
		if s.binds && !opened {
			now.Policies = nil // workloads change over and get nothing that is not named
		}
		inForce = inForce || !s.ends
		err := s.do(now)
		if err == nil {
			continue
		}
		errs = append(errs, &StepError{Step: s.Name, InForce: inForce, Err: err})
		if !inForce {
			break
		}
		bound, opened = bound && !s.binds, opened && !s.opens
	}
	return errors.Join(errs...)
}

// note keeps the first step that failed, and since when it does.
func (p *Pipeline) note(err error) {
	var first *StepError
	if !errors.As(err, &first) {
		p.failed = nil
		return
	}
	f := &StepFailure{Step: first.Step, Error: first.Err.Error(), Since: time.Now(), InForce: first.InForce}
	if p.failed != nil && p.failed.Step == f.Step {
		f.Since = p.failed.Since
	}
	p.failed = f
}

// Failed is the step that failed the last time; nil: none did.
func (p *Pipeline) Failed() *StepFailure {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failed
}
