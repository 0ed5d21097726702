// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/egressd/egressd/policy"
)

// AnnotationHeaderFrom has the rules of a VirtualService set request headers to values
// that are elsewhere: HEADER=secret://NAMESPACE/NAME/KEY or HEADER=file:///PATH, one a
// line or with commas between them.
const AnnotationHeaderFrom = "egressd.dev/request-header-from"

// framing are headers that say where a request ends or goes, and that no credential is
// in.
var framing = []string{"host", "connection", "content-length", "transfer-encoding", "te", "trailer", "upgrade", "expect", "keep-alive", "proxy-connection"}

// headerCredentials are the headers that a VirtualService takes from elsewhere. What is
// wrong is told with its first rule.
func (l *loader) headerCredentials(d decoded[networking.VirtualService], first bool) (out []policy.HeaderCredential) {
	text := d.meta.Annotations[AnnotationHeaderFrom]
	at := d.root.At("metadata", "annotations", AnnotationHeaderFrom)
	wrong := func(format string, args ...any) {
		if first {
			d.Errorf(at, "annotation egressd.dev/request-header-from: %s", fmt.Sprintf(format, args...))
		}
	}
	for _, one := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == '\n' }) {
		name, from, ok := strings.Cut(strings.TrimSpace(one), "=")
		if one = strings.TrimSpace(one); one == "" {
			continue
		}
		c := policy.HeaderCredential{Name: name, FromCluster: strings.HasPrefix(d.ref.File, ObjectPrefix)}
		scheme, rest, _ := strings.Cut(from, "://")
		switch parts := strings.Split(rest, "/"); {
		case !ok || !isToken(name):
			wrong("write HEADER=secret://NAMESPACE/NAME/KEY or HEADER=file:///PATH")
			continue
		case slices.Contains(framing, strings.ToLower(name)):
			wrong("header %q cannot be set so", name)
			continue
		case scheme == "secret" && len(parts) == 3 && !slices.Contains(parts, ""):
			if parts[0] != d.meta.Namespace {
				wrong("a VirtualService of namespace %s takes values from Secrets of its own namespace, not of %s", d.meta.Namespace, parts[0])
				continue
			}
			c.Secret, c.Key = parts[0]+"/"+parts[1], parts[2]
			l.leans = true
		case scheme == "file" && filepath.IsAbs(rest):
			if c.FromCluster {
				wrong("only policy files on the node's disk may name files; name a Secret")
				continue
			}
			c.File = rest
		default:
			wrong("write HEADER=secret://NAMESPACE/NAME/KEY or HEADER=file:///PATH")
			continue
		}
		out = append(out, c)
	}
	return out
}

// isToken says whether s is the name of an HTTP field (RFC 9110, 5.6.2).
func isToken(s string) bool {
	ok := func(r rune) bool {
		return r < 0x7f && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("!#$%&'*+-.^_`|~", r))
	}
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return !ok(r) })
}
