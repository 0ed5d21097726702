// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	udiff "github.com/aymanbagabas/go-udiff"

	"github.com/egressd/egressd/explain/learn"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio"
	"github.com/egressd/egressd/policy/load"
)

// learnedFile is the file of a directory that what was learned is put into.
const learnedFile = "learned.yaml"

// merge puts what was learned beside a policy.
type merge struct {
	e          env
	path       string // of the file that is changed
	o          istio.Options
	files      []istio.File
	snapshot   *policy.Snapshot
	identities []policy.Identity
	old, text  string
}

// newMerge reads the policy in files, which were read from a path. Workloads that only
// the daemon knows are described beside it.
func newMerge(e env, path string, files []istio.File, o istio.Options, identities []policy.Identity) (*merge, error) {
	m := &merge{e: e, path: path, o: o}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		m.path = filepath.Join(path, learnedFile)
	}
	r, err := load.With(files, o)
	if err != nil {
		printFindings(e, r)
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	described, err := learn.Described(identities, r.Snapshot)
	if err != nil {
		return nil, err
	}
	m.files = append(slices.Clone(files), described)
	if err := m.compile(m.files); err != nil {
		return nil, err
	}
	m.identities = learn.IdentitiesOf(m.snapshot)
	old, err := os.ReadFile(m.path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	m.old, m.text = string(old), string(old)
	return m, nil
}

func (m *merge) compile(files []istio.File) error {
	r, err := load.With(files, m.o)
	if err != nil {
		printFindings(m.e, r)
		return err
	}
	m.snapshot = r.Snapshot
	return nil
}

// add makes the text of the file with what was learned and is not allowed yet.
func (m *merge) add(l *learn.Learner, o learn.Options) (learn.Proposal, error) {
	l.Drop(m.snapshot)
	p := l.Propose(o)
	if p.Empty() {
		return p, nil
	}
	text, err := p.Merged(m.old)
	if err != nil {
		return p, fmt.Errorf("%s: %w", m.path, err)
	}
	m.text = text
	files := slices.DeleteFunc(slices.Clone(m.files), func(f istio.File) bool { return filepath.Clean(f.Name) == filepath.Clean(m.path) })
	if err := m.compile(append(files, istio.File{Name: m.path, Data: []byte(text)})); err != nil {
		return p, fmt.Errorf("what was learned does not go with %s: %w", m.path, err)
	}
	for _, d := range l.Denied(m.snapshot) {
		p.Notes = append(p.Notes, "still denied, for another object of the policy says so (egressd explain tells which): "+d)
	}
	return p, nil
}

// diff is what changes in the file, in the unified format.
func (m *merge) diff() string { return udiff.Unified(m.path, m.path, m.old, m.text) }

// save writes the file, whole or not at all.
func (m *merge) save() error {
	mode := os.FileMode(0o644)
	if info, err := os.Stat(m.path); err == nil {
		mode = info.Mode().Perm()
	}
	f, err := os.CreateTemp(filepath.Dir(m.path), "."+learnedFile+".*")
	if err != nil {
		return err
	}
	_, err = f.WriteString(m.text)
	err = errors.Join(err, f.Chmod(mode), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), m.path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
