// SPDX-License-Identifier: Apache-2.0

// Package e2e tests the egressd binary as its users see it: real programs
// (curl, Python, Node.js, MariaDB, a static Go client) on the node of a little
// internet try what a policy allows and what it does not. The package holds
// tests only.
package e2e
