// SPDX-License-Identifier: Apache-2.0

package source

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/egressd/egressd/policy/allowlist"
	"github.com/egressd/egressd/policy/istio"
)

// AllowFlag is the name, as that of a file, of what the command line allows.
const AllowFlag = "--allow"

// Allow is the part of a policy that is given in its short form.
type Allow struct {
	// Items are destinations, as allowlist.Parse reads them.
	Items []string
	// Paths are files with lists of them.
	Paths []string
}

// Empty says whether there is no such part.
func (a Allow) Empty() bool { return len(a.Items) == 0 && len(a.Paths) == 0 }

// YAML is all of it as ServiceEntries for people.
func (a Allow) YAML() (string, error) {
	lists, err := (&AllowCache{Allow: a}).sources()
	if err != nil {
		return "", err
	}
	var all []string
	var errs []error
	for n, f := range lists {
		l, err := allowlist.Lines(prefix(n), string(f.Data))
		errs = append(errs, named(f.Name, err)...)
		if !l.Empty() {
			all = append(all, l.YAML())
		}
	}
	return strings.Join(all, "---\n"), errors.Join(errs...)
}

// AllowCache reads an Allow as files of a policy, and reads those again that have
// changed since. What did not change has the same memory. It is used by one goroutine.
type AllowCache struct {
	Allow Allow
	lists Cache
	// read are the lists by name as they were translated.
	read map[string]translated
}

// translated is a list as it was, and the objects that it became.
type translated struct {
	prefix string
	list   []byte
	file   istio.File
}

// prefix begins the names of the objects of the list n: objects of two lists for one
// host have their ports together, and names of their own.
func prefix(n int) string {
	if n == 0 {
		return "allow"
	}
	return fmt.Sprintf("allow%d", n+1)
}

// sources are the lists themselves.
func (c *AllowCache) sources() ([]istio.File, error) {
	var out []istio.File
	for _, item := range c.Allow.Items {
		if strings.TrimSpace(item) == "" {
			return nil, errors.New(AllowFlag + ` "": it is empty: a variable that is not set, or a comma too much`)
		}
	}
	for _, path := range c.Allow.Paths {
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			return nil, fmt.Errorf("--allow-file %s: it is a directory; name the list", path)
		}
	}
	if len(c.Allow.Items) > 0 {
		out = append(out, istio.File{Name: AllowFlag, Data: []byte(strings.Join(c.Allow.Items, "\n"))})
	}
	if len(c.Allow.Paths) == 0 {
		return out, nil
	}
	files, err := c.lists.Files(c.Allow.Paths)
	if err != nil {
		return nil, fmt.Errorf("--allow-file: %w", err)
	}
	return append(out, files...), nil
}

// Files are the objects of all lists, as files with the lists' names and lines. The
// errors of all lists are returned together, and then no files.
func (c *AllowCache) Files() ([]istio.File, error) {
	lists, err := c.sources()
	if err != nil {
		return nil, err
	}
	now := map[string]translated{}
	var files []istio.File
	var errs []error
	for n, f := range lists {
		t, ok := c.read[f.Name]
		if !ok || t.prefix != prefix(n) || !bytes.Equal(t.list, f.Data) {
			l, err := allowlist.Lines(prefix(n), string(f.Data))
			if err != nil {
				errs = append(errs, named(f.Name, err)...)
				continue
			}
			t = translated{prefix(n), f.Data, istio.File{Name: f.Name, Data: l.Documents()}}
		}
		now[f.Name] = t
		files = append(files, t.file)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	c.read = now
	return files, nil
}

// named puts the name of a list before each of its errors; none of nil.
func named(name string, err error) (out []error) {
	var at *allowlist.LineError
	all, many := err.(interface{ Unwrap() []error })
	switch {
	case err == nil:
	case many:
		for _, err := range all.Unwrap() {
			out = append(out, named(name, err)...)
		}
	case !errors.As(err, &at):
		out = []error{fmt.Errorf("%s: %w", name, err)}
	case name == AllowFlag: // its items have no lines for who wrote them
		out = []error{fmt.Errorf("%s %w", name, at.Err)}
	default:
		out = []error{fmt.Errorf("%s:%d: %w", name, at.Line, at.Err)}
	}
	return out
}
