// SPDX-License-Identifier: Apache-2.0

// Package house holds the rules of the repository as tests, and nothing else:
// what may import what, licence headers, package documentation, file lengths.
package house
