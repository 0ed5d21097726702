// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// maxCredential is the most that a certificate file may have, in bytes.
const maxCredential = 1 << 20

// secret is a Kubernetes Secret. Its values appear in no finding.
type secret struct {
	*object
	data map[string][]byte
}

// decodeSecret reads a Secret without the general decoder, whose errors quote
// what they found.
func decodeSecret(o *object, d *draft) {
	s := secret{o, map[string][]byte{}}
	for _, key := range []string{"data", "stringData"} { // the latter has precedence
		fields := o.root.Get(key)
		if fields == nil || fields.IsNull() {
			continue
		}
		if fields.Kind != strictyaml.Mapping {
			o.Errorf(fields, "%s: expected a mapping", key)
			continue
		}
		for i := range fields.Fields {
			f := &fields.Fields[i]
			if f.Value.Kind != strictyaml.Scalar || f.Value.Tag != "!!str" && !f.Value.IsNull() {
				o.Errorf(f.Value, "%s[%s]: expected a string", key, f.Key)
				continue
			}
			value := []byte(f.Value.Text)
			if key == "data" {
				var err error
				// Line breaks in the text are good, as in Kubernetes.
				if value, err = base64.StdEncoding.DecodeString(f.Value.Text); err != nil {
					o.Errorf(f.Value, "%s[%s]: expected base64: %s", key, f.Key, err)
				}
			}
			s.data[f.Key] = value
		}
	}
	name := o.ref.Namespace + "/" + o.ref.Name
	d.take = func(l *loader) { l.secrets[name] = s }
}

// Secrets are the data of the Kubernetes Secrets that were read last, by
// NAMESPACE/NAME.
func (r *Reader) Secrets() map[string]map[string][]byte {
	if r.l == nil {
		return nil
	}
	out := make(map[string]map[string][]byte, len(r.l.secrets))
	for name, s := range r.l.secrets {
		out[name] = s.data
	}
	return out
}

// credentialUse says what a credential must have.
type credentialUse struct{ pair, ca bool }

// credential checks that the Secret of a credentialName is there and can be
// used. The runtime may get it from elsewhere, so nothing here is an error.
func (l *loader) credential(o *object, at *strictyaml.Node, name string, use credentialUse) {
	namespace, plain := o.meta.Namespace, name
	switch scheme, rest, _ := strings.Cut(name, "://"); {
	case rest == "":
	case scheme == "kubernetes":
		plain = rest
	case scheme == "kubernetes-gateway":
		if ns, n, ok := strings.Cut(rest, "/"); ok {
			namespace, plain = ns, n
		}
	default: // ConfigMaps, SDS servers: not Secrets
		o.Inert(at, "a credential of "+scheme)
		return
	}
	l.leans = true
	s, ok := l.secrets[namespace+"/"+plain]
	if !ok {
		o.Warnf(at, "Referenced credentialName not found: %q; there is no Secret %s/%s", name, namespace, plain)
		return
	}
	if use.pair {
		cert, key := pick(s.data, "tls.crt", "cert"), pick(s.data, "tls.key", "key")
		if cert == nil || key == nil {
			o.Warnf(at, "Secret %s/%s is missing tls.crt and tls.key (or cert and key)", namespace, plain)
		} else {
			l.pair(o, at, "Secret "+namespace+"/"+plain, cert, key)
		}
	}
	if use.ca {
		l.credentialCA(o, at, s, namespace, plain)
	}
}

// credentialCA checks the CA certificates of a credential, which may be in a
// Secret of their own.
func (l *loader) credentialCA(o *object, at *strictyaml.Node, s secret, namespace, name string) {
	ca := pick(s.data, "ca.crt", "cacert")
	if ca == nil {
		own := l.secrets[namespace+"/"+name+"-cacert"]
		ca = pick(own.data, "ca.crt", "cacert")
	}
	if ca == nil {
		o.Warnf(at, "Secret %s/%s is missing ca.crt (or cacert), and there is no Secret %s-cacert with it", namespace, name, name)
		return
	}
	l.certificates(o, at, "the CA of Secret "+namespace+"/"+name, ca)
}

func pick(data map[string][]byte, names ...string) []byte {
	for _, n := range names {
		if v, ok := data[n]; ok {
			return v
		}
	}
	return nil
}

// pair checks a certificate chain and its key.
func (l *loader) pair(o *object, at *strictyaml.Node, what string, cert, key []byte) {
	if !l.certificates(o, at, what, cert) {
		return
	}
	if _, err := tls.X509KeyPair(cert, key); err != nil {
		o.Warnf(at, "%s cannot be used: %s", what, err)
	}
}

// certificates checks PEM certificates, and says whether all can be read.
func (l *loader) certificates(o *object, at *strictyaml.Node, what string, data []byte) bool {
	l.outside, l.leans = true, true
	count := 0
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			o.Warnf(at, "%s has a certificate that cannot be read: %s", what, err)
			return false
		}
		count++
		switch {
		case l.now.After(c.NotAfter):
			o.Warnf(at, "%s has a certificate that expired at %s", what, c.NotAfter.UTC().Format(time.RFC3339))
		case l.now.Before(c.NotBefore):
			o.Warnf(at, "%s has a certificate that is not valid before %s", what, c.NotBefore.UTC().Format(time.RFC3339))
		}
	}
	if count == 0 {
		o.Warnf(at, "%s has no certificate in PEM form", what)
	}
	return count > 0
}

// pairFiles checks the files of a certificate chain and its key.
func (l *loader) pairFiles(o *object, certAt *strictyaml.Node, cert string, keyAt *strictyaml.Node, key string) {
	c, haveCert := l.file(o, certAt, cert)
	k, haveKey := l.file(o, keyAt, key)
	switch {
	case haveCert && haveKey:
		l.pair(o, certAt, cert, c, k)
	case haveCert:
		l.certificates(o, certAt, cert, c)
	}
}

// caFile checks a file of CA certificates.
func (l *loader) caFile(o *object, at *strictyaml.Node, name string) {
	if data, ok := l.file(o, at, name); ok {
		l.certificates(o, at, name, data)
	}
}

// file reads a file that a rule names; ok is false when it names none or it
// cannot be read, which is only a warning: the gateway may be elsewhere.
func (l *loader) file(o *object, at *strictyaml.Node, name string) (data []byte, ok bool) {
	if name == "" {
		return nil, false
	}
	l.outside, l.leans = true, true
	data, err := l.readFile(name)
	if err == nil {
		return data, true
	}
	why := err.Error()
	var pe *fs.PathError
	if errors.As(err, &pe) {
		why = pe.Err.Error()
	}
	o.Warnf(at, "the file %s cannot be read: %s", name, why)
	return nil, false
}

// readRegular reads a file of bounded size. Nothing else is opened: to open
// a pipe or a device could last for ever.
func readRegular(name string) ([]byte, error) {
	info, err := os.Stat(name)
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, errors.New("it is not a file")
	case info.Size() > maxCredential:
		return nil, fmt.Errorf("it has more than %d bytes", maxCredential)
	}
	return os.ReadFile(name)
}

// credentials sets up what the checks of certificates need.
func (l *loader) credentials(o Options) {
	l.secrets = map[string]secret{}
	l.now = o.Now
	if l.now.IsZero() {
		l.now = time.Now()
	}
	l.readFile = o.ReadFile
	if l.readFile == nil {
		l.readFile = readRegular
	}
}
