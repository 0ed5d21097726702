// SPDX-License-Identifier: Apache-2.0

package containerapi

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/egressd/egressd/internal/container"
)

const (
	id    = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	other = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210"
)

// serve is a runtime that answers by h, and its socket.
func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "egd-api") // the paths of sockets are short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	ln, err := new(net.ListenConfig).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(h)
	_ = s.Listener.Close()
	s.Listener = ln
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	return socket
}

func inspectAnswer(id string, more string) string {
	return fmt.Sprintf(`{"Id":%q,"Name":"/web","Image":"sha256:1","State":{"Pid":7},"Config":{"Image":"nginx:1","Labels":{"app":"web"}%s}}`, id, more)
}

func needRoot(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: only root's runtime is believed")
	}
}

// TestDocker: what Docker and podman answer is read, and nothing else is believed.
func TestDocker(t *testing.T) {
	needRoot(t)
	for _, tt := range []struct {
		name   string
		status int
		body   string
		err    string // "": none
	}{
		{"answer", 200, inspectAnswer(id, ""), ""},
		{"more", 200, inspectAnswer(id, `,"X":[1,{"y":null}]`), ""},
		{"unknown", 404, `{"message":"No such container"}`, ErrUnknown.Error()},
		{"fails", 500, "", "it answers 500"},
		{"redirects", 302, "", "it answers 302"},
		{"another", 200, inspectAnswer(other, ""), "it answers for container"},
		{"prefix", 200, inspectAnswer(id[:12], ""), "it answers for container"},
		{"empty", 200, "", "is no container"},
		{"text", 200, "<html>", "is no container"},
		{"types", 200, `{"Id":{}}`, "is no container"},
		{"deep", 200, strings.Repeat("[", 100_000), "is no container"},
		{"huge", 200, `{"Id":"` + strings.Repeat("x", maxAnswer) + `"}`, "more than"},
		{"name", 200, strings.Replace(inspectAnswer(id, ""), "/web", `/w\u001b[31m`, 1), "control characters"},
		{"long", 200, strings.Replace(inspectAnswer(id, ""), "/web", strings.Repeat("w", maxName+1), 1), "too long"},
		{"labels", 200, strings.Replace(inspectAnswer(id, ""), `"app":"web"`, manyLabels(), 1), "labels, more than"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			socket := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Method != http.MethodGet || r.URL.Path != "/containers/"+id+"/json" {
					t.Errorf("%s %s", r.Method, r.URL)
				}
				w.Header().Set("Location", "http://elsewhere/")
				w.WriteHeader(tt.status)
				_, _ = w.Write([]byte(tt.body))
			})
			is, err := New(container.Docker, socket).Describe(t.Context(), id)
			checkAnswer(t, is, err, tt.err, container.Description{Runtime: container.Docker, Name: "web", Image: "nginx:1", Labels: map[string]string{"app": "web"}})
		})
	}
}

func manyLabels() string {
	labels := map[string]string{}
	for i := range maxLabels + 1 {
		labels[fmt.Sprint(i)] = ""
	}
	b, _ := json.Marshal(labels)
	return strings.Trim(string(b), "{}")
}

func checkAnswer(t *testing.T, is container.Description, err error, wantErr string, want container.Description) {
	t.Helper()
	switch {
	case wantErr == "" && err != nil, wantErr != "" && (err == nil || !strings.Contains(err.Error(), wantErr)):
		t.Fatalf("%v, want %q", err, wantErr)
	case wantErr == ErrUnknown.Error() && !errors.Is(err, ErrUnknown):
		t.Errorf("%v is not ErrUnknown", err)
	case wantErr != ErrUnknown.Error() && errors.Is(err, ErrUnknown):
		t.Errorf("%v is ErrUnknown", err)
	case err != nil:
		want = container.Description{}
	}
	if is.Runtime != want.Runtime || is.Name != want.Name || is.Image != want.Image || !maps.Equal(is.Labels, want.Labels) {
		t.Errorf("%+v, want %+v", is, want)
	}
}

// TestSlow: a runtime that does not answer, or not to the end, costs no more time than
// there is.
func TestSlow(t *testing.T) {
	needRoot(t)
	for _, r := range container.Runtimes {
		for _, head := range []bool{false, true} {
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan struct{})
			socket := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if head {
					w.WriteHeader(http.StatusOK)
					_ = http.NewResponseController(w).Flush()
				}
				cancel()
				<-r.Context().Done()
				close(ended)
			})
			if _, err := New(r, socket).Describe(ctx, id); !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", r, err)
			}
			<-ended
		}
	}
}

// TestNoRuntime: a socket that nobody has, and what is no socket.
func TestNoRuntime(t *testing.T) {
	for _, r := range container.Runtimes {
		for _, socket := range []string{filepath.Join(t.TempDir(), "none"), t.TempDir()} {
			if _, err := New(r, socket).Describe(t.Context(), id); err == nil || errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), socket) {
				t.Errorf("%s: %v", r, err)
			}
		}
	}
}

func message(fields ...any) (out []byte) {
	for i := 0; i < len(fields); i += 2 {
		out = protowire.AppendTag(out, protowire.Number(fields[i].(int)), protowire.BytesType)
		switch v := fields[i+1].(type) {
		case string:
			out = protowire.AppendString(out, v)
		case []byte:
			out = protowire.AppendBytes(out, v)
		}
	}
	return out
}

func frame(m []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(m))), m...)
}

// TestContainerd: each namespace but Docker's is asked.
func TestContainerd(t *testing.T) {
	needRoot(t)
	spec := protowire.AppendVarint(protowire.AppendTag(nil, 8, protowire.VarintType), 7)
	named := func(id string) []byte {
		one := message(fieldID, id, fieldImage, "docker.io/library/nginx:1", fieldLabels, message(fieldKey, "nerdctl/name", fieldValue, "web"), fieldLabels, message(fieldKey, "app", fieldValue, "web"))
		return message(fieldItem, append(one, spec...))
	}
	namespaces := message(fieldItem, message(fieldName, "moby"), fieldItem, message(fieldName, "empty"), fieldItem, message(fieldName, "shop"))
	want := container.Description{Runtime: container.Containerd, Name: "web", Image: "docker.io/library/nginx:1", Labels: map[string]string{"nerdctl/name": "web", "app": "web"}}
	for _, tt := range []struct {
		name       string
		namespaces []byte
		answer     []byte // of the namespace shop
		status     string
		err        string
	}{
		{"answer", frame(namespaces), frame(named(id)), "0", ""},
		{"another", frame(namespaces), frame(named(other)), "0", "it answers for container"},
		{"none", frame(namespaces), frame(nil), "0", "it answers for container"},
		{"unknown", frame(namespaces), nil, "5", ErrUnknown.Error()},
		{"fails", frame(namespaces), nil, "13", "gRPC status"},
		{"no status", frame(namespaces), frame(named(id)), "", "gRPC status"},
		{"short", frame(namespaces), frame(named(id))[:20], "0", "not one message"},
		{"compressed", frame(namespaces), append([]byte{1}, frame(named(id))[1:]...), "0", "not one message"},
		{"broken", frame(namespaces), frame([]byte{0x0a, 0xff, 0xff}), "0", "broken"},
		{"broken list", frame([]byte{0x0f}), nil, "0", "broken"},
		{"only docker's", frame(message(fieldItem, message(fieldName, "moby"))), nil, "0", ErrUnknown.Error()},
		{"huge", frame(namespaces), make([]byte, maxAnswer+1), "0", "more than"},
		{"many", frame(manyNamespaces()), nil, "0", "namespaces, more than"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			socket := serve(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Trailer", "Grpc-Status")
				w.Header().Set("Content-Type", "application/grpc")
				status, body := "0", tt.namespaces
				if strings.HasSuffix(r.URL.Path, "Containers/Get") {
					switch r.Header.Get("Containerd-Namespace") {
					case "shop":
						status, body = tt.status, tt.answer
					case "empty":
						status, body = "5", nil
					default:
						t.Errorf("namespace %q is asked", r.Header.Get("Containerd-Namespace"))
					}
				}
				_, _ = w.Write(body)
				if status != "" {
					w.Header().Set("Grpc-Status", status)
				}
			})
			is, err := New(container.Containerd, socket).Describe(t.Context(), id)
			checkAnswer(t, is, err, tt.err, want)
		})
	}
}

// TestNamespaces: one of a namespace is asked for there alone, and by its own id.
func TestNamespaces(t *testing.T) {
	needRoot(t)
	socket := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "Grpc-Status")
		body := message(fieldItem, message(fieldName, "moby"), fieldItem, message(fieldName, "default"))
		if strings.HasSuffix(r.URL.Path, "Containers/Get") {
			if ns := r.Header.Get("Containerd-Namespace"); ns != "shop" {
				t.Errorf("namespace %q is asked", ns)
			}
			body = message(fieldItem, message(fieldID, "web-1", fieldImage, "localhost/web:1", fieldLabels, message(fieldKey, "io.kubernetes.container.name", fieldValue, "")))
		}
		_, _ = w.Write(frame(body))
		w.Header().Set("Grpc-Status", "0")
	})
	api := New(container.Containerd, socket)
	if list, err := api.Namespaces(t.Context()); err != nil || !slices.Equal(list, []string{"default"}) {
		t.Errorf("namespaces %q, %v", list, err)
	}
	is, err := api.Describe(t.Context(), "shop/web-1")
	checkAnswer(t, is, err, "", container.Description{Runtime: container.Containerd, Name: "web-1", Image: "localhost/web:1", Labels: map[string]string{"io.kubernetes.container.name": ""}})
	is, err = api.Describe(t.Context(), "shop/web-2")
	checkAnswer(t, is, err, "it answers for container", container.Description{})
	if list, err := New(container.Docker, socket).Namespaces(t.Context()); err != nil || list != nil {
		t.Errorf("Docker's namespaces are %q, %v", list, err)
	}
	if _, err := New(container.Containerd, t.TempDir()).Namespaces(t.Context()); err == nil || !strings.Contains(err.Error(), "containerd at ") {
		t.Errorf("nobody listens: %v", err)
	}
}

func manyNamespaces() (out []byte) {
	for i := range maxNamespaces + 1 {
		out = append(out, message(fieldItem, message(fieldName, fmt.Sprint("n", i)))...)
	}
	return out
}

func FuzzContainer(f *testing.F) {
	f.Add(message(fieldItem, message(fieldID, id, fieldLabels, message(fieldKey, "a", fieldValue, "b"))))
	f.Add([]byte{0x0a, 0x80})
	f.Fuzz(func(t *testing.T, answer []byte) {
		is, err := parseContainer(answer, id)
		if err == nil && is.Name == "" {
			t.Errorf("a container without a name: %+v", is)
		}
	})
}

// TestForeign: a process of another user that listens at the socket is not believed.
func TestForeign(t *testing.T) {
	needRoot(t)
	dir, err := os.MkdirTemp("", "egd-api")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	ln := listenAs(t, 1000, socket)
	defer func() { _ = ln.Close() }()
	for _, r := range container.Runtimes {
		if _, err := New(r, socket).Describe(t.Context(), id); err == nil || !strings.Contains(err.Error(), "user 1000 listens there") {
			t.Errorf("%s: %v", r, err)
		}
	}
}

// listenAs listens as another user: the kernel keeps who it was for those who connect.
func listenAs(t *testing.T, uid int, socket string) net.Listener {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	setUser := func(uid int) {
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); errno != 0 {
			t.Fatal(errno)
		}
	}
	setUser(uid)
	ln, err := new(net.ListenConfig).Listen(t.Context(), "unix", socket)
	setUser(0)
	if err != nil {
		t.Fatal(err)
	}
	return ln
}
