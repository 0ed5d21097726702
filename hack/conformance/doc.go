// SPDX-License-Identifier: Apache-2.0

// Package conformance runs the Gateway API's own conformance tests. Kubernetes is the
// API server of kubetest; what controllers and kubelets would do is done here: the
// pods of Deployments are the tests' own echo servers, the addresses of Services lead
// to them, and each Gateway has a node with an egressd of its own.
package conformance
