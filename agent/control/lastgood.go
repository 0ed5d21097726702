// SPDX-License-Identifier: Apache-2.0

package control

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/egressd/egressd/internal/securedir"
	"github.com/egressd/egressd/policy/istio"
	"github.com/egressd/egressd/policy/source"
)

// lastGoodFormat is the version of the file's layout; others are not read.
const lastGoodFormat = 1

// lastGood is the newest configuration that was in force, on disk: a daemon
// that comes up while its configuration is broken or out of reach goes on
// with it, rather than not coming up. It holds what was read and not what was
// compiled, so that a newer egressd compiles it with its own rules.
type lastGood struct {
	Format int       `json:"format"`
	Saved  time.Time `json:"saved"`
	// Config and GatewaySelector are the options that it was read with: with
	// others it is somebody else's policy.
	Config          []string          `json:"config"`
	GatewaySelector map[string]string `json:"gatewaySelector,omitempty"`
	// Objects says that there was an API server, whose objects are among Files. Its
	// Secrets are not: what they hold is on no disk of egressd's.
	Objects bool         `json:"objects,omitempty"`
	Files   []istio.File `json:"files"`
	// Sum is the SHA-256 of everything else, in hexadecimal.
	Sum string `json:"sum"`
}

func (g lastGood) sum() (string, error) {
	g.Sum = ""
	h := sha256.New()
	if err := g.encode(h); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// encode writes what json.Marshal makes of g, one file at a time in the same memory: all
// of a big policy at once would take several times its size, and the encoder keeps that.
func (g lastGood) encode(w io.Writer) error {
	files := g.Files
	g.Files = nil
	frame, err := json.Marshal(g)
	if err != nil {
		return err
	}
	i := bytes.LastIndex(frame, []byte(`null,"sum":`))
	if files == nil || i < 0 {
		_, err = w.Write(frame)
		return err
	}
	out := bufio.NewWriterSize(w, 64<<10) // its errors are kept for Flush
	_, _ = out.Write(append(frame[:i:i], '['))
	var one bytes.Buffer
	enc := json.NewEncoder(&one)
	for n, f := range files {
		one.Reset()
		if n > 0 {
			_ = out.WriteByte(',')
		}
		if err := enc.Encode(f); err != nil {
			return err
		}
		_, _ = out.Write(bytes.TrimSuffix(one.Bytes(), []byte("\n")))
	}
	_, _ = out.Write(append([]byte{']'}, frame[i+len("null"):]...))
	return out.Flush()
}

// readLastGood reads the file at path. It returns nil where there is none for
// these options; an error says that there is one that cannot be used.
func readLastGood(path string, o Options) (*lastGood, error) {
	if path == "" {
		return nil, nil
	}
	data, err := securedir.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var g lastGood
	if err := json.Unmarshal(data, &g); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if g.Format != lastGoodFormat {
		return nil, fmt.Errorf("%s: written by another version (format %d, not %d)", path, g.Format, lastGoodFormat)
	}
	want, err := g.sum()
	if err != nil {
		return nil, err
	}
	if g.Sum != want {
		return nil, fmt.Errorf("%s: damaged: its checksum does not fit", path)
	}
	if g.Objects != (o.Objects != nil) || !slices.Equal(g.Config, o.named()) || !maps.Equal(g.GatewaySelector, o.GatewaySelector) {
		return nil, nil
	}
	return &g, nil
}

// named says what the options name, to compare it between runs.
func (o Options) named() []string {
	out := absolute(o.Config)
	for _, item := range o.Allow.Items {
		out = append(out, source.AllowFlag+" "+item)
	}
	return append(out, absolute(o.Allow.Paths)...)
}

// absolute makes paths comparable between runs from different directories.
func absolute(paths []string) []string {
	out := make([]string, len(paths))
	for i, p := range paths {
		out[i] = p
		if abs, err := filepath.Abs(p); err == nil {
			out[i] = abs
		}
	}
	return out
}

// First reads the configuration to start with: what the options name, or, when
// that is broken or out of reach, what was in force before, unless fresh is
// wanted. It is Current then; Start brings it in force.
func (c *Control) First(fresh bool) (Loaded, error) {
	l, err := c.first(fresh)
	if err == nil {
		c.Set(l.Snapshot)
	}
	return l, err
}

func (c *Control) first(fresh bool) (Loaded, error) {
	if c.o.Objects != nil {
		return c.firstOfObjects(fresh)
	}
	now := time.Now()
	l, err := c.config.load(nil)
	l.Findings = append(l.Findings, c.config.reader.Analyze()...)
	c.logFindings(l.Findings)
	usable, err := err == nil, c.config.refuses(l, err)
	first := func() (Loaded, error) {
		if usable {
			c.report.loaded(l, nil, now)
			c.config.later(l, false)
			c.empty = l.Empty
			if l.Empty && !c.config.allowEmpty {
				c.o.Log.Warn("the policy's files contain no policy objects; everything is denied", "config", c.o.Config)
			}
			return l, nil
		}
		return l, err
	}
	if err == nil {
		return first()
	}
	if fresh {
		return l, fmt.Errorf("nothing is taken over with a policy that cannot be used: %w", err)
	}
	g, gerr := readLastGood(c.o.LastGood, c.o)
	if gerr != nil {
		c.o.Log.Warn("the last good policy could not be read; it is not used", "error", gerr)
	}
	if g == nil {
		return first()
	}
	old, gerr := c.config.compile(g.Files, nil)
	if gerr != nil {
		c.o.Log.Warn("the last good policy has errors by now; it is not used", "file", c.o.LastGood, "error", gerr)
		return first()
	}
	if old.Empty && usable {
		return first()
	}
	c.empty = old.Empty
	level := slog.LevelError
	if errors.Is(err, errEmpty) {
		level = slog.LevelWarn
	}
	c.o.Log.Log(context.Background(), level, "the policy cannot be used; the last good one is in force until it can",
		"error", err, "saved", g.Saved, "file", c.o.LastGood)
	c.report.loaded(old, nil, g.Saved)
	c.report.loaded(l, err, now)
	return old, nil
}

// SaveLastGood writes what is in force, unless it has been written. A daemon
// that cannot save it serves all the same.
func (c *Control) SaveLastGood() {
	c.config.mu.Lock()
	l := c.config.unsaved
	c.config.unsaved = nil
	c.config.mu.Unlock()
	if l == nil || c.o.LastGood == "" || c.gone.Load() {
		return
	}
	g := lastGood{
		Format: lastGoodFormat, Saved: time.Now().UTC().Truncate(time.Second),
		Config: c.o.named(), GatewaySelector: c.o.GatewaySelector, Files: withoutSecrets(l.Files), Objects: c.o.Objects != nil,
	}
	err := g.write(c.o.LastGood)
	c.Unsaved.Note(c.o.Log, SavedPolicy, err, time.Now())
	if err != nil {
		c.config.mu.Lock()
		defer c.config.mu.Unlock()
		if c.config.unsaved == nil { // else there is a newer one
			c.config.unsaved = l
		}
	}
}

// withoutSecrets are files without Secrets: those of an API server, and documents of
// files on disk. Of these the lines stay, so that the rest is where it was.
func withoutSecrets(files []istio.File) []istio.File {
	files = slices.DeleteFunc(slices.Clone(files), func(f istio.File) bool { return source.IsSecret(f.Name) })
	for i, f := range files {
		if !source.IsObject(f.Name) && secretKind.Match(f.Data) {
			files[i].Data = blankSecrets(f.Data)
		}
	}
	return files
}

// secretKind is what every Secret says of itself, in YAML or JSON. A text that says it
// and is none is left out as well.
var secretKind = regexp.MustCompile(`\bkind["']?\s*:\s*["']?Secret\b`)

func blankSecrets(data []byte) []byte {
	var out, document []byte
	flush := func() {
		if secretKind.Match(document) {
			document = bytes.Repeat([]byte{'\n'}, bytes.Count(document, []byte{'\n'}))
		}
		out, document = append(out, document...), nil
	}
	for line := range bytes.Lines(data) {
		if bytes.HasPrefix(line, []byte("---")) {
			flush()
			out, line = append(out, "---"...), line[len("---"):]
		}
		document = append(document, line...)
	}
	flush()
	return out
}

// write replaces the file at path.
func (g lastGood) write(path string) (err error) {
	if g.Sum, err = g.sum(); err != nil {
		return err
	}
	return securedir.Replace(path, func(f *os.File) error { return g.encode(f) })
}
