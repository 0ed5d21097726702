// SPDX-License-Identifier: Apache-2.0

package containerapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"

	"github.com/egressd/egressd/internal/container"
)

// docker speaks Docker's API, which podman has as well.
type docker struct{ socket string }

// inspected is what counts of ContainerInspect's answer (Docker Engine API 1.24 and later).
type inspected struct {
	ID     string `json:"Id"`
	Name   string
	Config struct {
		Image  string
		Labels map[string]string
	}
}

func (d docker) inspect(ctx context.Context, id string) (out container.Description, err error) {
	t := &http.Transport{
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, d.socket) },
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: 64 << 10,
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://runtime/containers/"+id+"/json", nil)
	if err != nil {
		return out, err
	}
	resp, err := t.RoundTrip(req) // which follows no redirection
	if err != nil {
		return out, err
	}
	defer func() { _ = resp.Body.Close() }() // only read from
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return out, ErrUnknown
	default:
		return out, fmt.Errorf("it answers %d", resp.StatusCode)
	}
	data, err := readAll(resp.Body)
	if err != nil {
		return out, err
	}
	var got inspected
	if err := json.Unmarshal(data, &got); err != nil {
		return out, fmt.Errorf("its answer is no container: %w", err)
	}
	if got.ID != id {
		return out, fmt.Errorf("it answers for container %.64q", got.ID)
	}
	return container.Description{Name: strings.TrimPrefix(got.Name, "/"), Image: got.Config.Image, Labels: got.Config.Labels}, nil
}
