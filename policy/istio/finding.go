// SPDX-License-Identifier: Apache-2.0

package istio

import "github.com/egressd/egressd/policy/istio/internal/strictyaml"

type (
	// Finding is one thing to say about a configuration file.
	Finding = strictyaml.Finding
	// Severity says what a Finding means for the configuration.
	Severity = strictyaml.Severity
)

// The severities.
const (
	Error   = strictyaml.Error
	Warning = strictyaml.Warning
	Note    = strictyaml.Note
)
