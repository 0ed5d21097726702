// SPDX-License-Identifier: Apache-2.0

package source

import (
	"strings"

	"github.com/egressd/egressd/policy/istio"
)

// Files that are objects of an API server begin with ObjectPrefix: each is
// ObjectPrefix KIND/NAMESPACE/NAME, or ObjectPrefix KIND/NAME where there is no namespace.
const ObjectPrefix = istio.ObjectPrefix

// SecretPrefix begins the names of those that are Secrets.
const SecretPrefix = ObjectPrefix + "Secret/"

// IsObject says whether a file is an object of an API server.
func IsObject(name string) bool { return strings.HasPrefix(name, ObjectPrefix) }

// IsSecret says whether a file is a Secret of an API server.
func IsSecret(name string) bool { return strings.HasPrefix(name, SecretPrefix) }

// ObjectOf is how people call the object that a file is: KIND NAMESPACE/NAME.
func ObjectOf(name string) string {
	kind, object, _ := strings.Cut(strings.TrimPrefix(name, ObjectPrefix), "/")
	return kind + " " + object
}
