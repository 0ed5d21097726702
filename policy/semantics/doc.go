// SPDX-License-Identifier: Apache-2.0

// Package semantics holds what the policy means, as cases that need no Go: YAML
// as an operator writes it, questions about connections, requests and queries,
// and the answers. README.md has the words of these files; the tests here put
// the questions to the policy engine itself.
package semantics
