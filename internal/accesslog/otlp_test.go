// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"bytes"
	"encoding/binary"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	service "go.opentelemetry.io/proto/slim/otlp/collector/logs/v1"
	"google.golang.org/protobuf/proto"

	"github.com/egressd/egressd/internal/collector"
)

// logCollector takes log records by OTLP over HTTP and over gRPC.
type logCollector struct {
	*httptest.Server
	got  chan string // PATH SERVICE BODY
	code int         // of its answers; 0: 200
}

func newLogCollector(t *testing.T, code int) *logCollector {
	c := &logCollector{got: make(chan string, 64), code: code}
	c.Server = httptest.NewUnstartedServer(c)
	c.Config.Protocols = new(http.Protocols)
	c.Config.Protocols.SetHTTP1(true)
	c.Config.Protocols.SetUnencryptedHTTP2(true)
	c.Start()
	t.Cleanup(c.Close)
	return c
}

func (c *logCollector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body) // what is cut is no message
	if c.code != 0 {
		w.WriteHeader(c.code)
		return
	}
	if r.Header.Get("Content-Type") == "application/grpc" {
		if len(body) < 5 || int(binary.BigEndian.Uint32(body[1:])) != len(body)-5 {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		body = body[5:]
		w.Header().Set("Trailer", "Grpc-Status")
		defer func() {
			_, _ = w.Write(make([]byte, 5))
			w.Header().Set("Grpc-Status", "0")
		}()
	}
	var m service.ExportLogsServiceRequest
	if proto.Unmarshal(body, &m) != nil {
		return
	}
	for _, l := range m.ResourceLogs {
		for _, record := range l.ScopeLogs[0].LogRecords {
			c.got <- r.URL.Path + " " + l.Resource.Attributes[0].Value.GetStringValue() + " " + record.Body.GetStringValue()
		}
	}
}

// TestOTLP: a line is a record at the collector, in both forms of OTLP; what it does not
// take is counted, and the log says so once.
func TestOTLP(t *testing.T) {
	f, err := ParseFormat("%REQ(:METHOD)% %RESPONSE_CODE% %REQ(USER-AGENT)%\n", "")
	if err != nil {
		t.Fatal(err)
	}
	for scheme, path := range map[string]string{"http": "/v1/logs", "grpc": "/opentelemetry.proto.collector.logs.v1.LogsService/Export"} {
		c := newLogCollector(t, 0)
		w, err := NewOTLP(strings.Replace(c.URL, "http", scheme, 1), "edge", slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		l := New(nil)
		l.Set(&Config{Outputs: []Output{{Format: f, To: w}}, Percent: 100})
		for range 3 {
			l.Observe(exchange())
		}
		for range 3 {
			select {
			case got := <-c.got:
				if want := path + " edge GET 200 curl/8"; got != want {
					t.Errorf("%s: %q, want %q", scheme, got, want)
				}
			case <-time.After(patience):
				t.Fatalf("%s: nothing came", scheme)
			}
		}
		l.Close(patience)
		if err := w.Close(); err != nil || w.Failed() != 0 {
			t.Errorf("%s: %v, %d lost", scheme, err, w.Failed())
		}
	}
	var said bytes.Buffer
	w, err := NewOTLP(newLogCollector(t, http.StatusServiceUnavailable).URL, "edge", slog.New(slog.NewTextHandler(&said, nil)))
	if err != nil {
		t.Fatal(err)
	}
	for range collector.BatchSize + 1 {
		_, _ = w.Write([]byte("x\n")) // it never fails
	}
	if err := w.Close(); err != nil || w.Failed() != collector.BatchSize+1 || strings.Count(said.String(), "could not be sent") != 1 {
		t.Errorf("%v, %d lost, the log says: %s", err, w.Failed(), said.String())
	}
	for _, at := range []string{"ftp://a:1", "http://a", "grpc://", "http://u:p@a:1"} {
		if w, err := NewOTLP(at, "", nil); err == nil {
			t.Errorf("%s is a collector: %v", at, w)
		}
	}
}
