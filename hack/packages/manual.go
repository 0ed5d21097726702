// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/cpuguy83/go-md2man/v2/md2man"
	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// command is a command as "egressd commands" prints it.
type command struct {
	Use, Short, Long, Example string
	Flags                     []struct{ Name, Shorthand, Type, Default, Alone, Usage string }
	Commands                  []command
}

// value is a flag's value as a manual page shows it.
type value struct{ kind, text string }

func (v value) String() string   { return v.text }
func (v value) Set(string) error { return nil }
func (v value) Type() string     { return v.kind }

// cobra is the command for cobra, which knows how to make pages.
func (c command) cobra() *cobra.Command {
	cmd := &cobra.Command{Use: c.Use, Short: c.Short, Long: c.Long, Example: c.Example, Run: func(*cobra.Command, []string) {}, DisableAutoGenTag: true}
	for _, f := range c.Flags {
		flag := cmd.Flags().VarPF(value{f.Type, f.Default}, f.Name, f.Shorthand, f.Usage)
		flag.DefValue, flag.NoOptDefVal = f.Default, f.Alone
	}
	for _, below := range c.Commands {
		cmd.AddCommand(below.cobra())
	}
	return cmd
}

// documents writes what people read of the program: manual pages, completions, the
// changelog, the licenses of others, and the unit.
func (r *release) documents(binary, work string) error {
	if err := r.manual(binary, work); err != nil {
		return err
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		text, err := say(binary, "completion", shell)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(work, "completion."+shell), text, 0o644); err != nil {
			return err
		}
	}
	changes, err := os.ReadFile(filepath.Join(r.top, "CHANGELOG.md"))
	if err != nil {
		return err
	}
	if err := compressed(filepath.Join(work, "NEWS.gz"), changes); err != nil {
		return err
	}
	if err := compressed(filepath.Join(work, "changelog.gz"), []byte(r.debian())); err != nil {
		return err
	}
	others, err := licenses(r.top, binary)
	if err != nil {
		return err
	}
	if err := compressed(filepath.Join(work, "third-party-licenses.gz"), others); err != nil {
		return err
	}
	unit, err := os.ReadFile(filepath.Join(r.top, "deploy/systemd/egressd.service"))
	if err != nil {
		return err
	}
	// Where packages put programs.
	unit = bytes.ReplaceAll(unit, []byte("=/usr/local/bin/"), []byte("=/usr/bin/"))
	return os.WriteFile(filepath.Join(work, "egressd.service"), unit, 0o644)
}

// debian is a changelog as Debian Policy (4.4) wants one of each package.
func (r *release) debian() string {
	return fmt.Sprintf("egressd (%s) unstable; urgency=medium\n\n  * NEWS.gz has what is new.\n\n -- the egressd authors <maintainers@egressd.dev>  %s\n",
		packageVersion(r.version, r.at, r.newest()), r.at.Format(time.RFC1123Z))
}

// manual writes the manual pages.
func (r *release) manual(binary, work string) error {
	text, err := say(binary, "commands")
	if err != nil {
		return err
	}
	var tree command
	if err := json.Unmarshal(text, &tree); err != nil {
		return err
	}
	version := packageVersion(r.version, r.at, r.newest())
	one, five := filepath.Join(work, "man1"), filepath.Join(work, "man5")
	for _, dir := range []string{one, five} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	header := &doc.GenManHeader{Title: "EGRESSD", Section: "1", Source: "egressd " + version, Manual: "egressd", Date: &r.at}
	if err := pages(tree.cobra(), header, one); err != nil {
		return err
	}
	policy, err := os.ReadFile(filepath.Join(r.top, "deploy/packages/egressd-policy.5.md"))
	if err != nil {
		return err
	}
	page := strings.NewReplacer("DATE", r.at.Format(time.DateOnly), "VERSION", "egressd "+version).Replace(string(policy))
	return compressed(filepath.Join(five, "egressd-policy.5.gz"), md2man.Render([]byte(page)))
}

// pages writes the page of a command and of those below it.
func pages(cmd *cobra.Command, header *doc.GenManHeader, dir string) error {
	var page bytes.Buffer
	own := *header
	name := strings.ReplaceAll(cmd.CommandPath(), " ", "-")
	own.Title = strings.ToUpper(name)
	if err := doc.GenMan(cmd, &own, &page); err != nil {
		return err
	}
	if err := compressed(filepath.Join(dir, name+".1.gz"), tidy(page.Bytes(), own.Date.Format("Jan 2006"), own.Date.Format(time.DateOnly))); err != nil {
		return err
	}
	for _, below := range cmd.Commands() {
		if !below.IsAvailableCommand() {
			continue
		}
		if err := pages(below, header, dir); err != nil {
			return err
		}
	}
	return nil
}

// indented is a line that md2man indents with a tab, which fills no text.
var indented = regexp.MustCompile(`(?m)^ *\t(.+)$`)

// tidy mends what mandoc has to say of a page: its date, and how a flag's text stands
// below the flag.
func tidy(page []byte, old, date string) []byte {
	page = bytes.Replace(page, []byte(`"`+old+`"`), []byte(`"`+date+`"`), 1)
	return indented.ReplaceAll(page, []byte(".RS\n$1\n.RE"))
}

// say is what the program prints.
func say(binary string, args ...string) ([]byte, error) {
	path, err := filepath.Abs(binary)
	if err != nil {
		return nil, err
	}
	var problem bytes.Buffer
	cmd := exec.Command(path, args...)
	cmd.Stderr = &problem
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", binary, strings.Join(args, " "), err, problem.Bytes())
	}
	return out, nil
}

// compressed writes a file as gzip, without a name and a time.
func compressed(path string, text []byte) error {
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return err
	}
	if _, err := w.Write(text); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return os.WriteFile(path, b.Bytes(), 0o644)
}
