// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"
)

// ErrMissing: what is named is not there.
var ErrMissing = errors.New("not there")

// Options are what a Stock works with; a zero value is the default named beside it.
type Options struct {
	Log *slog.Logger // discarded
	// Every is how often files are looked at. Two seconds.
	Every time.Duration
	// Keep is how long material is kept that nobody asked for. Ten minutes.
	Keep time.Duration
	// ReadFile reads a file whole. ReadFile of this package.
	ReadFile func(name string) ([]byte, error)
}

// Stock has the newest material of everything that is asked for. It is safe for
// concurrent use.
type Stock struct {
	o Options
	// secrets are by NAMESPACE/NAME.
	secrets atomic.Pointer[map[string]Secret]

	mu       sync.Mutex
	material map[Where]*entry
	values   map[ValueWhere]*valueEntry
}

// Secret is the data of a Kubernetes Secret.
type Secret = map[string][]byte

// NewStock makes a Stock that has no Secrets yet.
func NewStock(o Options) *Stock {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Every, o.Keep = cmp.Or(o.Every, 2*time.Second), cmp.Or(o.Keep, 10*time.Minute)
	if o.ReadFile == nil {
		o.ReadFile = ReadFile
	}
	s := &Stock{o: o, material: map[Where]*entry{}, values: map[ValueWhere]*valueEntry{}}
	s.secrets.Store(&map[string]Secret{})
	return s
}

// entry is the material of one Where.
type entry struct {
	mu   sync.Mutex
	now  atomic.Pointer[state]
	used atomic.Int64 // UnixNano of the last question
	sum  [sha256.Size]byte
	read bool
}

// state is what there is: the last that could be used, and why there is nothing
// newer.
type state struct {
	material *Material
	err      error
}

// Material is the newest that can be used; the error says why there is none.
// Material that was there and cannot be read for the moment stays; that of a Secret
// that is gone does not.
func (s *Stock) Material(r Where) (*Material, error) {
	s.mu.Lock()
	e := s.material[r]
	if e == nil {
		e = &entry{}
		s.material[r] = e
	}
	s.mu.Unlock()
	e.used.Store(time.Now().UnixNano())
	now := e.now.Load()
	if now == nil {
		now = s.refresh(r, e)
	}
	if now.material == nil {
		return nil, fmt.Errorf("%s: %w", r, now.err)
	}
	return now.material, nil
}

// refresh reads the material of r again.
func (s *Stock) refresh(r Where, e *entry) *state {
	e.mu.Lock()
	defer e.mu.Unlock()
	p, err := s.read(r)
	sum := p.sum()
	old := e.now.Load()
	if err == nil && e.read && sum == e.sum {
		return old
	}
	if e.read = err == nil; e.read {
		e.sum = sum
	}
	now := &state{}
	if err == nil {
		now.material, err = Parse(p)
	}
	if now.err = err; err != nil && old != nil && !(r.Secret != "" && errors.Is(err, ErrMissing)) {
		now.material = old.material
	}
	s.tell(r, old, now)
	e.now.Store(now)
	return now
}

// tell logs what became of material.
func (s *Stock) tell(r Where, old, now *state) {
	switch {
	case now.err == nil:
		if old != nil {
			s.o.Log.Info("certificates were read again; new connections use them", "from", r.String())
		}
	case old != nil && old.err != nil && old.err.Error() == now.err.Error():
	case now.material != nil:
		s.o.Log.Warn("certificates cannot be used; the ones before stay in use", "from", r.String(), "error", now.err)
	default:
		s.o.Log.Warn("certificates cannot be used; what needs them is denied", "from", r.String(), "error", now.err)
	}
}

func (s *Stock) read(r Where) (p PEM, err error) {
	if r.Secret != "" {
		return s.readSecret(r.Secret)
	}
	for _, f := range []struct {
		name string
		to   *[]byte
	}{{r.Certificate, &p.Certificate}, {r.Key, &p.Key}, {r.CA, &p.CA}, {r.CRL, &p.CRL}} {
		if f.name == "" {
			continue
		}
		if *f.to, err = s.file(f.name); err != nil {
			return PEM{}, err
		}
	}
	return p, nil
}

// file reads a file; the error has its name.
func (s *Stock) file(name string) ([]byte, error) {
	data, err := s.o.ReadFile(name)
	if err == nil {
		if data == nil {
			data = []byte{}
		}
		return data, nil
	}
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return nil, fmt.Errorf("the file %s cannot be read: %w", name, err)
}

func (s *Stock) readSecret(name string) (p PEM, err error) {
	all := *s.secrets.Load()
	own, ok := all[name]
	if !ok {
		return PEM{}, fmt.Errorf("there is no such Secret: %w", ErrMissing)
	}
	p = PEM{
		Certificate: pick(own, "tls.crt", "cert"), Key: pick(own, "tls.key", "key"),
		CA: pick(own, "ca.crt", "cacert"), CRL: pick(own, "ca.crl", "crl"),
	}
	if p.CA == nil {
		p.CA = pick(all[name+"-cacert"], "ca.crt", "cacert")
	}
	if p.CRL == nil {
		p.CRL = pick(all[name+"-cacert"], "ca.crl", "crl")
	}
	return p, nil
}

func pick(s Secret, keys ...string) []byte {
	for _, k := range keys {
		if v := s[k]; len(v) > 0 {
			return v
		}
	}
	return nil
}

// SetSecrets replaces the Secrets, by NAMESPACE/NAME. Everything that is made of
// them counts when it returns. The map is not changed by anybody after it.
func (s *Stock) SetSecrets(secrets map[string]Secret) {
	old := *s.secrets.Swap(&secrets)
	if maps.EqualFunc(old, secrets, func(a, b Secret) bool { return maps.EqualFunc(a, b, bytes.Equal) }) {
		return
	}
	s.each(func(r Where) bool { return r.Secret != "" }, func(r ValueWhere) bool { return r.Secret != "" })
}

// Refresh looks at all files now.
func (s *Stock) Refresh() {
	s.each(func(r Where) bool { return r.Secret == "" }, func(r ValueWhere) bool { return r.Secret == "" })
}

// each reads again what is chosen.
func (s *Stock) each(material func(Where) bool, value func(ValueWhere) bool) {
	s.mu.Lock()
	certs, values := maps.Clone(s.material), maps.Clone(s.values)
	s.mu.Unlock()
	for r, e := range certs {
		if material(r) {
			s.refresh(r, e)
		}
	}
	for r, e := range values {
		if value(r) {
			s.refreshValue(r, e)
		}
	}
}

// forget drops what nobody asked for since a time.
func (s *Stock) forget(before time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.material, func(_ Where, e *entry) bool { return e.used.Load() < before.UnixNano() })
	maps.DeleteFunc(s.values, func(_ ValueWhere, e *valueEntry) bool { return e.used.Load() < before.UnixNano() })
}

// Run looks at files again and again, until ctx ends.
func (s *Stock) Run(ctx context.Context) {
	t := time.NewTicker(s.o.Every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-t.C:
			s.forget(now.Add(-s.o.Keep))
			s.Refresh()
		}
	}
}
