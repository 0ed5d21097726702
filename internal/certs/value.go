// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"
	"time"
)

// ValueWhere names one value: a key of a Secret, or a file. It is comparable.
type ValueWhere struct {
	// Secret is NAMESPACE/NAME, Key one of its keys.
	Secret, Key string
	File        string
}

// String says where the value is, for people.
func (r ValueWhere) String() string {
	if r.Secret != "" {
		return "Secret " + r.Secret + ", key " + r.Key
	}
	return "file " + r.File
}

type valueEntry struct {
	mu   sync.Mutex
	now  atomic.Pointer[valueState]
	used atomic.Int64
}

type valueState struct {
	value []byte
	err   error
}

// errValue: not a value of an HTTP field. It says nothing of what it has.
var errValue = errors.New("it is empty, or has characters that no HTTP field has")

// Value is a token as it is now, without the line end that editors put behind it: a
// value of an HTTP field (RFC 9110, 5.5). The error says why there is none. A file
// that cannot be read or used for the moment stays what it was; one that is gone does
// not, nor does a Secret or a key of it: who removes a token wants it used no more.
func (s *Stock) Value(r ValueWhere) (string, error) {
	s.mu.Lock()
	e := s.values[r]
	if e == nil {
		e = &valueEntry{}
		s.values[r] = e
	}
	s.mu.Unlock()
	e.used.Store(time.Now().UnixNano())
	now := e.now.Load()
	if now == nil {
		now = s.refreshValue(r, e)
	}
	if now.value == nil {
		return "", fmt.Errorf("%s: %w", r, now.err)
	}
	return string(now.value), nil
}

func (s *Stock) refreshValue(r ValueWhere, e *valueEntry) *valueState {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := &valueState{}
	now.value, now.err = s.readValue(r)
	old := e.now.Load()
	if now.err != nil && old != nil && r.Secret == "" && !errors.Is(now.err, fs.ErrNotExist) {
		now.value = old.value
	}
	switch {
	case now.err != nil && (old == nil || old.err == nil || old.err.Error() != now.err.Error()):
		s.o.Log.Warn(unusable(now), "from", r.String(), "error", now.err)
	case now.err == nil && old != nil && !bytes.Equal(old.value, now.value):
		s.o.Log.Info("a credential was read again; requests from now on have it", "from", r.String())
	}
	e.now.Store(now)
	return now
}

// unusable says what an error means for requests.
func unusable(now *valueState) string {
	if now.value != nil {
		return "a credential cannot be read again; requests go on with the last one"
	}
	return "a credential cannot be used; requests that need it are denied"
}

func (s *Stock) readValue(r ValueWhere) ([]byte, error) {
	var data []byte
	if r.Secret != "" {
		own, ok := (*s.secrets.Load())[r.Secret]
		if !ok {
			return nil, fmt.Errorf("there is no such Secret: %w", ErrMissing)
		}
		if data, ok = own[r.Key]; !ok {
			return nil, fmt.Errorf("the Secret has no such key: %w", ErrMissing)
		}
	} else {
		var err error
		if data, err = s.file(r.File); err != nil {
			return nil, err
		}
	}
	data = bytes.TrimRight(data, "\r\n")
	if !isFieldValue(data) {
		return nil, errValue
	}
	return data, nil
}

// isFieldValue says whether v is visible characters, with spaces and tabs in it.
func isFieldValue(v []byte) bool {
	for i, c := range v {
		blank := c == ' ' || c == '\t'
		if c == 0x7f || c < ' ' && c != '\t' || blank && (i == 0 || i == len(v)-1) {
			return false
		}
	}
	return len(v) > 0
}
