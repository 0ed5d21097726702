// SPDX-License-Identifier: Apache-2.0

// Package uitest tests the daemon's web page in a browser, as people see it: with
// what hostile workloads write, and over a daemon that decides about real flows.
package uitest
