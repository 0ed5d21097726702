// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"os"
	"strings"
	"testing"

	"github.com/egressd/egressd/policy"
)

// TestFlag: a reason stands for a flag in one place, and those that are there
// stay, in Envoy's order; what audit mode let pass has none.
func TestFlag(t *testing.T) {
	for _, tt := range []struct {
		e    Event
		want string
	}{
		{Event{Layer: Egress, Kind: Request, Reason: policy.ReasonUpstream}, "UF"},
		{Event{Layer: Egress, Kind: Close, Reason: policy.ReasonUpstream}, "UF,URX"},
		{Event{Layer: Egress, Kind: Request, Reason: policy.ReasonUpstream, ResponseFlags: "URX"}, "UF,URX"},
		{Event{Layer: Ingress, Kind: Request, Reason: policy.ReasonFault, ResponseFlags: "DI"}, "DI,FI"},
		{Event{Layer: Egress, Kind: Request, Reason: policy.ReasonTimeout, ResponseFlags: "URX"}, "UT,URX"},
		{Event{Layer: Egress, Kind: Request, Reason: policy.ReasonAllowed}, ""},
		{Event{Layer: Egress, Kind: Request, Reason: policy.ReasonName}, ""},
		{Event{Layer: Egress, Kind: Decision, Reason: policy.ReasonName}, "UH"},
		{Event{Layer: Egress, Kind: Decision, Reason: policy.ReasonMalformed}, ""},
		{Event{Layer: Kernel, Kind: Decision, Reason: policy.ReasonName}, "UH"},
		{Event{Layer: Kernel, Kind: Decision, Reason: policy.ReasonNoRule}, "UH"},
		{Event{Layer: Kernel, Kind: Decision, Reason: policy.ReasonTransport}, "UH"},
		{Event{Layer: Kernel, Kind: Decision, Reason: policy.ReasonUnknownWorkload}, "UH"},
		{Event{Layer: Kernel, Kind: Close, Reason: policy.ReasonName}, "UH"},
		{Event{Layer: Kernel, Kind: Close, Reason: policy.ReasonPolicyChanged}, "LR"},
		{Event{Layer: Kernel, Kind: Decision, Reason: policy.ReasonAuthorization}, ""},
		{Event{Layer: Kernel, Kind: Decision, Reason: policy.ReasonNoRule, Allowed: true, WouldDeny: true}, ""},
		{Event{Layer: Kernel, Kind: Close, Reason: policy.ReasonAllowed, Allowed: true}, ""},
		{Event{Layer: Egress, Kind: Decision, Reason: policy.ReasonName, Allowed: true, WouldDeny: true}, ""},
		{Event{Layer: DNS, Kind: Query, Reason: policy.ReasonResolve}, ""},
	} {
		flagged := tt.e
		if flagged.Flag(); flagged.ResponseFlags != tt.want {
			t.Errorf("%+v: %q, want %q", tt.e, flagged.ResponseFlags, tt.want)
		}
	}
	for _, table := range []map[policy.Reason]string{flags, unread} {
		for reason, list := range table {
			for f := range strings.SplitSeq(list, ",") {
				if f != "" && !strings.Contains(" "+flagOrder+" ", " "+f+" ") {
					t.Errorf("%s: the flag %q has no place in the order", reason, f)
				}
			}
		}
	}
}

// TestFlagsAreDocumented: docs/OPERATIONS.md has each flag with its reason.
func TestFlagsAreDocumented(t *testing.T) {
	data, err := os.ReadFile("../../docs/OPERATIONS.md")
	if err != nil {
		t.Fatal(err)
	}
	for reason, f := range flags {
		found := false
		for line := range strings.Lines(string(data)) {
			found = found || strings.Contains(line, "`"+string(reason)+"`") && strings.Contains(line, "| `"+f+"` |")
		}
		if !found {
			t.Errorf("docs/OPERATIONS.md has no line with %s and %s", reason, f)
		}
	}
}
