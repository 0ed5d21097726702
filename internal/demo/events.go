// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/policy"
)

// event is the part of a flow.Event that the demo shows.
type event struct {
	Time    time.Time      `json:"time"`
	Name    string         `json:"name"`
	Dst     netip.AddrPort `json:"dst"`
	Allowed bool           `json:"allowed"`
	Reason  policy.Reason  `json:"reason"`
	Detail  string         `json:"detail"`
}

// askEvents asks the daemon what it decided.
func askEvents(ctx context.Context, d *world.Daemon) ([]event, error) {
	out, err := d.Command(ctx, "flows", "-o", "json", "--state-dir", d.StateDir()).Output()
	if err != nil {
		return nil, fmt.Errorf("egressd flows: %w", err)
	}
	return parseEvents(bytes.NewReader(out))
}

// parseEvents reads one JSON object a line, or one array of them.
func parseEvents(r io.Reader) ([]event, error) {
	br := bufio.NewReader(r)
	if b, err := br.Peek(1); err == nil && b[0] == '[' {
		var all []event
		err := json.NewDecoder(br).Decode(&all)
		return all, err
	}
	var all []event
	for dec := json.NewDecoder(br); ; {
		var e event
		if err := dec.Decode(&e); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return all, fmt.Errorf("events: %w", err)
		}
		all = append(all, e)
	}
}
