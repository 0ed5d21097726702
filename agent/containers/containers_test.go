// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/egressd/egressd/internal/container"
	"github.com/egressd/egressd/internal/containerapi"
)

// runtime answers as the test says.
type runtime struct {
	mu    sync.Mutex
	is    map[string]container.Description
	err   error
	asked map[string]int
	slow  chan struct{} // nil: it answers at once
}

func (r *runtime) Describe(ctx context.Context, id string) (container.Description, error) {
	r.mu.Lock()
	if r.asked == nil {
		r.asked = map[string]int{}
	}
	r.asked[id]++
	is, ok := r.is[id]
	err, slow := r.err, r.slow
	r.mu.Unlock()
	if slow != nil {
		select {
		case <-slow:
		case <-ctx.Done():
			return container.Description{}, ctx.Err()
		}
	}
	switch {
	case err != nil:
		return container.Description{}, err
	case !ok:
		return container.Description{}, containerapi.ErrUnknown
	}
	return is, nil
}

func (r *runtime) set(id, name string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
	if name != "" {
		r.is[id] = container.Description{Name: name}
	}
}

func there(list ...container.Instance) container.Found {
	out := map[string]container.Instance{}
	for _, c := range list {
		out[c.ID] = c
	}
	return container.Found{Containers: out}
}

// logged is a log that several write.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), text)
}

// begin runs a directory; the channel has an item after each change.
func begin(t *testing.T, d *Directory) <-chan struct{} {
	changed := make(chan struct{}, 100)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { d.Run(ctx, func() { changed <- struct{}{} }) })
	t.Cleanup(func() { cancel(); running.Wait() })
	return changed
}

// TestDirectory: a runtime that does not answer is asked again, what is known stays while
// it is away, and what is gone is forgotten.
func TestDirectory(t *testing.T) {
	docker := &runtime{is: map[string]container.Description{}, err: errors.New("no socket")}
	said := &logged{}
	d := New(map[container.Runtime]API{container.Docker: docker}, slog.New(slog.NewTextHandler(said, nil)))
	changed := begin(t, d)
	a, b := container.Instance{ID: "a", Runtime: container.Docker}, container.Instance{ID: "b", Runtime: container.Docker}
	d.Want(there(a))
	if _, err := d.Describe("a"); err == nil {
		t.Fatal("known before it was asked for")
	}
	docker.set("a", "web", nil)
	<-changed
	if is, err := d.Describe("a"); err != nil || is.Name != "web" {
		t.Fatalf("%+v, %v", is, err)
	}
	// Away: a stays, b is not known, and why is said.
	docker.set("", "", errors.New("connection refused"))
	d.Want(there(a, b))
	for {
		if _, err := d.Describe("b"); err != nil && strings.Contains(err.Error(), "refused") {
			break
		}
	}
	if is, err := d.Describe("a"); err != nil || is.Name != "web" {
		t.Errorf("away: %+v, %v", is, err)
	}
	docker.set("b", "db", nil)
	<-changed
	if is, err := d.Describe("b"); err != nil || is.Name != "db" {
		t.Errorf("back: %+v, %v", is, err)
	}
	if said.count("does not answer") == 0 || said.count("does not answer") != said.count("answers again") {
		t.Errorf("said:\n%s", said.b.String())
	}
	d.Want(there(b))
	if _, err := d.Describe("a"); err == nil {
		t.Error("a container that is gone is known")
	}
}

// TestWhich: the runtime of the cgroup is asked and no other; where it does not tell, all
// are, and one that is away could know it.
func TestWhich(t *testing.T) {
	away := errors.New("away")
	for _, tt := range []struct {
		of             container.Runtime
		docker, podman *runtime
		name, err      string
	}{
		{container.Docker, &runtime{is: map[string]container.Description{"a": {Name: "d"}}}, &runtime{is: map[string]container.Description{"a": {Name: "p"}}}, "d", ""},
		{container.Podman, &runtime{is: map[string]container.Description{"a": {Name: "d"}}}, &runtime{is: map[string]container.Description{"a": {Name: "p"}}}, "p", ""},
		{container.Podman, &runtime{is: map[string]container.Description{"a": {Name: "d"}}}, &runtime{}, "", containerapi.ErrUnknown.Error()},
		{"", &runtime{}, &runtime{is: map[string]container.Description{"a": {Name: "p"}}}, "p", ""},
		{"", &runtime{err: away}, &runtime{is: map[string]container.Description{"a": {Name: "p"}}}, "p", ""},
		{"", &runtime{}, &runtime{err: away}, "", "away"},
		{"", &runtime{}, &runtime{}, "", containerapi.ErrUnknown.Error()},
		{container.Containerd, &runtime{}, &runtime{}, "", errNoRuntime.Error()},
	} {
		d := New(map[container.Runtime]API{container.Docker: tt.docker, container.Podman: tt.podman}, slog.New(slog.DiscardHandler))
		d.Want(there(container.Instance{ID: "a", Runtime: tt.of}))
		d.Prime()
		is, err := d.Describe("a")
		if is.Name != tt.name || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%+v: %+v, %v", tt, is, err)
		}
		if tt.of == container.Podman && tt.docker.asked["a"] > 0 {
			t.Error("Docker was asked for podman's")
		}
	}
}

// TestHangs: a runtime that hangs keeps nobody from asking another one, and holds no more
// than a few questions.
func TestHangs(t *testing.T) {
	podman := &runtime{slow: make(chan struct{})}
	docker := &runtime{is: map[string]container.Description{"d": {Name: "web"}}}
	d := New(map[container.Runtime]API{container.Docker: docker, container.Podman: podman}, slog.New(slog.DiscardHandler))
	changed := begin(t, d)
	list := []container.Instance{}
	for i := range 100 {
		list = append(list, container.Instance{ID: fmt.Sprint("p", i), Runtime: container.Podman})
	}
	d.Want(there(list...))
	d.Want(there(append(list, container.Instance{ID: "d", Runtime: container.Docker})...))
	<-changed
	if is, err := d.Describe("d"); err != nil || is.Name != "web" {
		t.Errorf("%+v, %v", is, err)
	}
	podman.mu.Lock()
	defer podman.mu.Unlock()
	if len(podman.asked) > maxAsked {
		t.Errorf("%d questions at a time", len(podman.asked))
	}
}

func TestParseSockets(t *testing.T) {
	for _, tt := range []struct{ text, want, err string }{
		{"auto", fmt.Sprint(containerapi.DefaultSockets), ""},
		{"none", "map[]", ""},
		{"docker", "map[docker:/run/docker.sock]", ""},
		{"docker, podman=/x/y.sock", "map[docker:/run/docker.sock podman:/x/y.sock]", ""},
		{"", "", "is no container runtime"},
		{"crio", "", "is no container runtime"},
		{"docker=", "", "not an absolute path"},
		{"docker=x", "", "not an absolute path"},
		{"docker,docker=/x", "", "twice"},
		{"docker=/" + strings.Repeat("x", 106), "map[docker:/" + strings.Repeat("x", 106) + "]", ""},
		{"docker=/" + strings.Repeat("x", 107), "", "1 too many"},
	} {
		got, err := ParseSockets(tt.text)
		if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) || err == nil && fmt.Sprint(got) != tt.want {
			t.Errorf("%q: %v, %v", tt.text, got, err)
		}
	}
}
