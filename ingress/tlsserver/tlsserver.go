// SPDX-License-Identifier: Apache-2.0

// Package tlsserver makes crypto/tls configurations for the Gateway servers that
// terminate TLS, of the certificates that there are now. What a server's own
// certificates do not allow is an error of this server alone.
package tlsserver

import (
	"cmp"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/egressd/egressd/internal/certs"
	"github.com/egressd/egressd/policy"
)

// ErrMode: the server's TLS mode is not one that has certificates of its own.
var ErrMode = errors.New("not a mode that egressd terminates TLS in; write SIMPLE, MUTUAL or OPTIONAL_MUTUAL")

// Materials has the newest certificates, keys and lists; *certs.Stock is one.
type Materials interface {
	Material(certs.Where) (*certs.Material, error)
}

// ServerConfigs has the configurations of Gateway servers. It is safe for concurrent use.
type ServerConfigs struct {
	from Materials
	dirs []string
	// now is the clock that certificates are verified by.
	now func() time.Time

	mu       sync.Mutex
	byServer map[*policy.GatewayServer]*server
	byKey    map[string]*server
}

// New makes ServerConfigs that take certificates from materials. Files of private keys
// that a Gateway names must be below dirs.
func New(from Materials, dirs []string) *ServerConfigs {
	return &ServerConfigs{from: from, dirs: dirs, now: time.Now, byServer: map[*policy.GatewayServer]*server{}, byKey: map[string]*server{}}
}

// server is one Gateway server, whatever snapshot it is of. A configuration has
// session tickets of its own, which no other server takes (what that asks of its
// clients was not asked), and which end with the certificates that they were made
// under.
type server struct {
	settings  *policy.GatewayServer
	refs      refs
	mu        sync.Mutex // of those that build
	built     atomic.Pointer[built]
	materials Materials
	dirs      []string
	now       func() time.Time
}

// refs are where a server's certificates come from.
type refs struct {
	pairs []certs.Where
	// ca is for clients; empty: none.
	ca certs.Where
}

// built is a configuration, and what it was built of.
type built struct {
	config *tls.Config
	sums   [][sha256.Size]byte
}

// keyOf names a server by all that its configuration depends on.
func keyOf(s *policy.GatewayServer) string {
	return fmt.Sprintf("%s/%s %q %d %v %q %+v", s.Ref.Namespace, s.Ref.Name, s.Name, s.Port, s.Protocol, s.Hosts, *s.TLS)
}

// Config is the configuration for connections that begin now. The error says why
// there is none.
func (s *ServerConfigs) Config(of *policy.GatewayServer) (*tls.Config, error) {
	s.mu.Lock()
	x := s.byServer[of]
	if x == nil {
		key := keyOf(of)
		if x = s.byKey[key]; x == nil {
			x = &server{settings: of, refs: refsOf(of), materials: s.from, dirs: s.dirs, now: s.now}
			s.byKey[key] = x
		}
		s.byServer[of] = x
	}
	s.mu.Unlock()
	return x.config()
}

// Keep forgets all servers but these.
func (s *ServerConfigs) Keep(list []*policy.GatewayServer) {
	keys := map[string]bool{}
	for _, l := range list {
		keys[keyOf(l)] = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.byServer, func(of *policy.GatewayServer, _ *server) bool { return !slices.Contains(list, of) })
	maps.DeleteFunc(s.byKey, func(key string, _ *server) bool { return !keys[key] })
}

// refsOf finds where a server's certificates come from.
func refsOf(s *policy.GatewayServer) refs {
	var out refs
	t := s.TLS
	for _, f := range t.Certificates {
		out.pairs = append(out.pairs, certs.Where{Certificate: f.Certificate, Key: f.PrivateKey})
	}
	for _, name := range t.CredentialNames {
		out.pairs = append(out.pairs, certs.Where{Secret: secretName(s.Ref.Namespace, name)})
	}
	switch {
	case t.Mode == policy.ServerSimple:
	case t.CACredentialName != "":
		out.ca = certs.Where{Secret: secretName(s.Ref.Namespace, t.CACredentialName)}
	case t.CA != "":
		out.ca = certs.Where{CA: t.CA, CRL: t.CRL}
	case len(t.CredentialNames) > 0:
		out.ca = out.pairs[0]
	}
	return out
}

// secretName is the Secret of a credentialName in a namespace, as NAMESPACE/NAME.
func secretName(namespace, name string) string {
	if plain, ok := strings.CutPrefix(name, "kubernetes://"); ok {
		name = plain
	}
	if full, ok := strings.CutPrefix(name, "kubernetes-gateway://"); ok {
		return full
	}
	return cmp.Or(namespace, policy.DefaultNamespace) + "/" + name
}

// config is the newest configuration. One that could be used stays while the
// certificates cannot be read; that of a Secret that is gone does not.
func (x *server) config() (*tls.Config, error) {
	pairs, ca, sums, err := x.collect()
	was := x.built.Load()
	switch {
	case err != nil && was != nil && !errors.Is(err, certs.ErrMissing):
		return was.config, nil
	case err != nil:
		x.built.CompareAndSwap(was, nil)
		return nil, err
	case was != nil && slices.Equal(was.sums, sums):
		return was.config, nil
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if now := x.built.Load(); now != nil && slices.Equal(now.sums, sums) {
		return now.config, nil // the same tickets for all
	}
	b := &built{config: x.build(pairs, ca), sums: sums}
	x.built.Store(b)
	return b.config, nil
}

// collect gets what the configuration is made of.
func (x *server) collect() (pairs []tls.Certificate, ca *certs.Material, sums [][sha256.Size]byte, err error) {
	switch x.settings.TLS.Mode {
	case policy.ServerSimple, policy.ServerMutual, policy.ServerOptionalMutual:
	default:
		return nil, nil, nil, fmt.Errorf("%v: %w", x.settings.TLS.Mode, ErrMode)
	}
	if x.cluster() {
		return nil, nil, nil, errors.New("a Gateway of a cluster names Secrets (credentialName), not files of the node")
	}
	if file := x.outside(); file != "" {
		return nil, nil, nil, fmt.Errorf("a Gateway on the node's disk may name private keys below %s (--credentials-dir), not %s: move the key there, or name its directory", strings.Join(x.dirs, " or "), file)
	}
	for _, r := range x.refs.pairs {
		m, err := x.materials.Material(r)
		switch {
		case err != nil:
			return nil, nil, nil, err
		case m.Pair == nil:
			return nil, nil, nil, fmt.Errorf("%v has no certificate and key", r)
		}
		pairs, sums = append(pairs, *m.Pair), append(sums, m.Sum)
	}
	if len(pairs) == 0 {
		return nil, nil, nil, errors.New("the server names no certificate")
	}
	if x.settings.TLS.Mode == policy.ServerSimple {
		return pairs, nil, sums, nil
	}
	if x.refs.ca == (certs.Where{}) {
		return nil, nil, nil, errors.New("the server names no CA for client certificates")
	}
	if ca, err = x.materials.Material(x.refs.ca); err != nil {
		return nil, nil, nil, err
	}
	if ca.CA == nil {
		return nil, nil, nil, fmt.Errorf("%v has no CA for client certificates", x.refs.ca)
	}
	return pairs, ca, append(sums, ca.Sum), nil
}

// cluster says whether the server is an API server's object and names files: who may
// write one has no say about the keys of the node.
func (x *server) cluster() bool {
	ofFiles := func(r certs.Where) bool { return r.Certificate+r.Key+r.CA+r.CRL != "" }
	return strings.HasPrefix(x.settings.Ref.File, "kubernetes:") && (ofFiles(x.refs.ca) || slices.ContainsFunc(x.refs.pairs, ofFiles))
}

// outside is a private key that the server may not name; "": there is none. Who may
// write a policy is not by that one who may have any key of the node used.
func (x *server) outside() string {
	for _, r := range x.refs.pairs {
		if r.Key != "" && !certs.Within(x.dirs, r.Key) {
			return r.Key
		}
	}
	return ""
}

// build makes a configuration.
func (x *server) build(pairs []tls.Certificate, ca *certs.Material) *tls.Config {
	t := x.settings.TLS
	c := &tls.Config{
		Certificates: pairs,
		MinVersion:   cmp.Or(t.MinVersion, tls.VersionTLS12),
		MaxVersion:   t.MaxVersion,
		CipherSuites: cipherSuites(t.CipherSuites),
		Time:         x.now,
	}
	if x.settings.ServesHTTP() {
		c.NextProtos = []string{"h2", "http/1.1"}
	}
	if ca == nil {
		return c
	}
	c.ClientCAs, c.ClientAuth = ca.CA, tls.RequireAndVerifyClientCert
	if t.Mode == policy.ServerOptionalMutual {
		c.ClientAuth = tls.VerifyClientCertIfGiven
	}
	v := &clients{settings: t, ca: ca, now: x.now}
	c.VerifyConnection = v.verify // of resumed sessions as well
	return c
}
