// SPDX-License-Identifier: Apache-2.0

package main

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/egressd/egressd/internal/testenv"
)

// recipes are the pages of docs/recipes, by name.
func recipes(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("../../docs/recipes/*.md")
	if err != nil || len(files) < 7 {
		t.Fatalf("recipes: %q, %v", files, err)
	}
	out := map[string]string{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		out[filepath.Base(f)] = string(b)
	}
	return out
}

// TestRecipes: what the recipes tell people to write is good: lists and policies compile,
// workflows are YAML, and each line that calls egressd has verbs and flags that there are,
// and files that the page has.
func TestRecipes(t *testing.T) {
	for page, text := range recipes(t) {
		t.Run(page, func(t *testing.T) {
			dir := t.TempDir()
			files := map[string]string{} // what is said on the page, and where it is here
			var lines []string
			for _, b := range testenv.Blocks(text) {
				switch b.Kind {
				case "text", "yaml":
					if b.Name == "" {
						t.Fatalf("a file without a name:\n%s", b.Text)
					}
					files[b.Name] = filepath.Join(dir, filepath.Base(b.Name))
					if err := os.WriteFile(files[b.Name], []byte(b.Text), 0o644); err != nil {
						t.Fatal(err)
					}
					if strings.HasSuffix(b.Name, ".txt") {
						good(t, "check", "--allow-file", files[b.Name])
					} else if strings.Contains(b.Text, "apiVersion:") {
						good(t, "check", files[b.Name])
					} else {
						lines = append(lines, scripts(t, b.Text)...)
					}
				case "sh", "ini":
					lines = append(lines, strings.Split(b.Text, "\n")...)
				case "json":
					if err := yaml.Unmarshal([]byte(b.Text), new(any)); err != nil {
						t.Error(err)
					}
				case "text-output":
				default:
					t.Errorf("a block of the kind %q", b.Kind)
				}
			}
			for _, line := range lines {
				commandLine(t, line, files)
			}
		})
	}
}

// good fails the test unless a call of the program ends well, without a word of a mistake.
func good(t *testing.T, args ...string) {
	t.Helper()
	if o := call(t, args...); o.code != exitGood || !strings.Contains(o.stdout+o.stderr, "0 errors, 0 warnings") {
		t.Errorf("egressd %q: exit code %d\n%s%s", args, o.code, o.stdout, o.stderr)
	}
}

// scripts are the lines that a workflow of GitHub or GitLab runs.
func scripts(t *testing.T, text string) (lines []string) {
	t.Helper()
	var doc any
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
		t.Fatal(err)
	}
	var walk func(key string, v any)
	walk = func(key string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for k, inner := range v {
				walk(k, inner)
			}
		case []any:
			for _, inner := range v {
				walk(key, inner)
			}
		case string:
			if key == "run" || key == "script" {
				lines = append(lines, strings.Split(v, "\n")...)
			}
		}
	}
	walk("", doc)
	if len(lines) == 0 {
		t.Errorf("a workflow that runs nothing:\n%s", text)
	}
	return lines
}

// commandLine checks a line that calls egressd; others are somebody else's.
func commandLine(t *testing.T, line string, files map[string]string) {
	t.Helper()
	words := strings.Fields(line)
	at := slices.IndexFunc(words, func(w string) bool { return filepath.Base(w) == "egressd" })
	if at < 0 || at+1 == len(words) || strings.HasPrefix(line, "#") || slices.Contains(words[:at], "systemctl") {
		return
	}
	args := words[at+1:]
	for i, a := range args {
		args[i] = strings.Trim(a, `'"`)
	}
	verb, rest, err := root(env{}).Find(args)
	if err != nil || verb.Name() == "egressd" {
		t.Errorf("%s: no such verb: %v", line, err)
		return
	}
	if err := verb.ParseFlags(rest); err != nil {
		t.Errorf("%s: %v", line, err)
		return
	}
	if verb.Args != nil {
		if err := verb.Args(verb, verb.Flags().Args()); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
	for _, flag := range []string{"allow", "allow-file"} {
		f := verb.Flags().Lookup(flag)
		if f == nil || !f.Changed {
			continue
		}
		values, err := verb.Flags().GetStringSlice(flag)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range values {
			if flag == "allow-file" {
				if v = files[v]; v == "" {
					t.Errorf("%s: the page has no such list", line)
					continue
				}
			}
			good(t, "check", "--"+flag, v)
		}
	}
	switch verb.Name() {
	case "check", "explain":
		for i, a := range args {
			if here := files[a]; here != "" {
				args[i] = here
			}
		}
		if o := call(t, args...); o.code != exitGood {
			t.Errorf("%s: exit code %d\n%s%s", line, o.code, o.stdout, o.stderr)
		}
	}
}

// TestRecipesAreListed: the list of recipes has all of them, and nothing else.
func TestRecipesAreListed(t *testing.T) {
	pages := recipes(t)
	for page := range pages {
		if page != "README.md" && !strings.Contains(pages["README.md"], "("+page+")") {
			t.Errorf("docs/recipes/README.md does not name %s", page)
		}
	}
	for _, m := range regexp.MustCompile(`\(([a-z-]+\.md)\)`).FindAllStringSubmatch(strings.Join(slices.Collect(maps.Values(pages)), "\n"), -1) {
		if pages[m[1]] == "" {
			t.Errorf("there is no %s", m[1])
		}
	}
}
