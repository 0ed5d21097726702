// SPDX-License-Identifier: Apache-2.0

// Package attack tries to get out of a captured cgroup in every way that is
// known, and writes down what happened: docs/ATTACKS.md is made from its rows.
// What egressd does not stop yet stands there as OPEN, and is tested to be
// open, so that nobody closes it without changing the table. The package holds
// tests only.
package attack
