// SPDX-License-Identifier: Apache-2.0

package containerapi

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/egressd/egressd/internal/container"
)

// containerd speaks two calls of containerd's API (gRPC over HTTP/2 without TLS), whose
// client library brings more modules than all of egressd has.
type containerd struct{ socket string }

func newContainerd(socket string) containerd { return containerd{socket} }

// The fields that count (containerd api/services/containers/v1/containers.proto and
// api/services/namespaces/v1/namespace.proto).
const (
	fieldID     = 1 // GetContainerRequest, Container
	fieldLabels = 2 // Container
	fieldImage  = 3 // Container
	fieldItem   = 1 // GetContainerResponse.container, ListNamespacesResponse.namespaces
	fieldName   = 1 // Namespace
	fieldKey    = 1 // of an entry of labels
	fieldValue  = 2
)

const (
	// grpcNotFound and grpcOK are statuses of gRPC.
	grpcOK, grpcNotFound = "0", "5"
	// maxNamespaces bounds the namespaces that are asked.
	maxNamespaces = 64
)

// nameLabels are the labels in which names are kept, by nerdctl (its pkg/labels) and by
// who uses CRI (the kubelet's pkg/kubelet/types).
var nameLabels = []string{"nerdctl/name", "io.kubernetes.container.name"}

// docker's containers are Docker's to describe.
const dockerNamespace = "moby"

// transport is for one question.
func (c containerd) transport() *http.Transport {
	t := &http.Transport{
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, c.socket) },
		Protocols:              new(http.Protocols),
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true,
	}
	t.Protocols.SetUnencryptedHTTP2(true)
	return t
}

// inspect looks for a container in the namespace that its id begins with, or in each.
func (c containerd) inspect(ctx context.Context, id string) (container.Description, error) {
	t := c.transport()
	defer t.CloseIdleConnections()
	if ns, id, ok := strings.Cut(id, "/"); ok {
		return get(ctx, t, ns, id)
	}
	namespaces, err := list(ctx, t)
	if err != nil {
		return container.Description{}, err
	}
	for _, ns := range namespaces {
		is, err := get(ctx, t, ns, id)
		if !errors.Is(err, ErrUnknown) {
			return is, err
		}
	}
	return container.Description{}, ErrUnknown
}

// namespaces are all but Docker's.
func (c containerd) namespaces(ctx context.Context) ([]string, error) {
	t := c.transport()
	defer t.CloseIdleConnections()
	return list(ctx, t)
}

// get asks for a container of a namespace.
func get(ctx context.Context, t *http.Transport, ns, id string) (container.Description, error) {
	answer, err := call(ctx, t, "containers.v1.Containers/Get", ns, protowire.AppendString(protowire.AppendTag(nil, fieldID, protowire.BytesType), id))
	if err != nil {
		return container.Description{}, err
	}
	return parseContainer(answer, id)
}

// list asks for the namespaces.
func list(ctx context.Context, t *http.Transport) (namespaces []string, err error) {
	answer, err := call(ctx, t, "namespaces.v1.Namespaces/List", "", nil)
	if err != nil {
		return nil, err
	}
	err = fields(answer, func(field protowire.Number, item []byte) error {
		if field != fieldItem {
			return nil
		}
		return fields(item, func(field protowire.Number, v []byte) error {
			if field == fieldName && string(v) != dockerNamespace {
				namespaces = append(namespaces, string(v))
			}
			return nil
		})
	})
	if err == nil && len(namespaces) > maxNamespaces {
		err = fmt.Errorf("it has %d namespaces, more than %d", len(namespaces), maxNamespaces)
	}
	return namespaces, err
}

// parseContainer reads a GetContainerResponse.
func parseContainer(answer []byte, id string) (d container.Description, err error) {
	isID := ""
	d.Labels = map[string]string{}
	err = fields(answer, func(field protowire.Number, item []byte) error {
		if field != fieldItem {
			return nil
		}
		return fields(item, func(field protowire.Number, v []byte) error {
			switch field {
			case fieldID:
				isID = string(v)
			case fieldImage:
				d.Image = string(v)
			case fieldLabels:
				var key, value string
				err := fields(v, func(field protowire.Number, v []byte) error {
					switch field {
					case fieldKey:
						key = string(v)
					case fieldValue:
						value = string(v)
					}
					return nil
				})
				d.Labels[key] = value
				return err
			}
			return nil
		})
	})
	if err == nil && isID != id {
		err = fmt.Errorf("it answers for container %.64q", isID)
	}
	d.Name = id
	for _, label := range nameLabels {
		if name := d.Labels[label]; name != "" {
			d.Name = name
			break
		}
	}
	return d, err
}

// call makes one call of gRPC with one message each way.
func call(ctx context.Context, t *http.Transport, method, namespace string, message []byte) ([]byte, error) {
	body := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://containerd/containerd.services."+method, bytes.NewReader(append(body, message...)))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("TE", "trailers")
	if namespace != "" {
		req.Header.Set("Containerd-Namespace", namespace)
	}
	resp, err := t.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // only read from
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it answers %d", resp.StatusCode)
	}
	data, err := readAll(resp.Body)
	if err != nil {
		return nil, err
	}
	status := resp.Trailer.Get("Grpc-Status")
	if status == "" {
		status = resp.Header.Get("Grpc-Status") // there is no message
	}
	switch status {
	case grpcOK:
	case grpcNotFound:
		return nil, ErrUnknown
	default:
		return nil, fmt.Errorf("it answers gRPC status %.20q", status)
	}
	if len(data) < 5 || data[0] != 0 || uint64(binary.BigEndian.Uint32(data[1:])) != uint64(len(data)-5) {
		return nil, errors.New("its answer is not one message")
	}
	return data[5:], nil
}

// fields calls f for each field of a message that has a length.
func fields(message []byte, f func(field protowire.Number, value []byte) error) error {
	for len(message) > 0 {
		field, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return errBroken(n)
		}
		message = message[n:]
		if kind != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(field, kind, message); n < 0 {
				return errBroken(n)
			}
			message = message[n:]
			continue
		}
		value, n := protowire.ConsumeBytes(message)
		if n < 0 {
			return errBroken(n)
		}
		message = message[n:]
		if err := f(field, value); err != nil {
			return err
		}
	}
	return nil
}

func errBroken(n int) error { return fmt.Errorf("its answer is broken: %w", protowire.ParseError(n)) }
