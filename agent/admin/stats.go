// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// stat is a series of the metrics: its name with its labels, and its value as it was
// written.
type stat struct{ name, value string }

// serveStats shows the metrics: a line each as Envoy does, as JSON, or for Prometheus.
// filter leaves those whose name, with its labels, has a part that the expression
// (RE2) matches, and usedonly those that counted something.
func serveStats(w http.ResponseWriter, r *http.Request, metrics *Page) {
	q := r.URL.Query()
	filter, err := regexp.Compile(q.Get("filter"))
	if err != nil {
		http.Error(w, "filter: "+err.Error(), http.StatusBadRequest)
		return
	}
	format := q.Get("format")
	if !slices.Contains([]string{"", "text", "json", "prometheus"}, format) {
		http.Error(w, "usage: /stats?format=text|json|prometheus&filter=REGEX&usedonly", http.StatusBadRequest)
		return
	}
	if format == "prometheus" && !q.Has("filter") && !q.Has("usedonly") {
		metrics.ServeHTTP(w, r)
		return
	}
	page := metrics.get(r)
	show := func(s stat) bool { return filter.MatchString(s.name) }
	if q.Has("usedonly") {
		used := usedSeries(page.body)
		show = func(s stat) bool { return filter.MatchString(s.name) && used[seriesOf(s.name)] }
	}
	switch format {
	case "prometheus":
		w.Header()["Content-Type"] = page.header["Content-Type"]
		writePrometheus(w, page.body, show)
	case "json":
		writeJSON(w, map[string]any{"stats": jsonStats(page.body, show)})
	default:
		for s := range allStats(page.body) {
			if show(s) {
				fmt.Fprintf(w, "%s: %s\n", s.name, jsonValue(s.value))
			}
		}
	}
}

// allStats are the series of a page in Prometheus's text format.
func allStats(page []byte) func(func(stat) bool) {
	return func(yield func(stat) bool) {
		for lines := bufio.NewScanner(bytes.NewReader(page)); lines.Scan(); {
			if s, ok := statOf(lines.Text()); ok && !yield(s) {
				return
			}
		}
	}
}

func statOf(line string) (stat, bool) {
	end := strings.LastIndexByte(line, ' ')
	if end < 0 || line[0] == '#' {
		return stat{}, false
	}
	return stat{line[:end], line[end+1:]}, true
}

func jsonStats(page []byte, show func(stat) bool) any {
	type one struct {
		Name  string          `json:"name"`
		Value json.RawMessage `json:"value"`
	}
	list := []one{}
	for s := range allStats(page) {
		if show(s) {
			list = append(list, one{s.name, jsonValue(s.value)})
		}
	}
	return list
}

// jsonValue is a number, or the text of what JSON has no number for: +Inf, NaN.
func jsonValue(value string) json.RawMessage {
	if v := json.RawMessage(value); json.Valid(v) {
		return v
	}
	v, _ := json.Marshal(value) // a string always can be
	return v
}

// seriesOf is the name of what a series belongs to: all of a histogram's are one.
func seriesOf(name string) string {
	base, labels, _ := strings.Cut(name, "{")
	for _, part := range []string{"_bucket", "_sum", "_count"} {
		base = strings.TrimSuffix(base, part)
	}
	return base + "{" + bound.ReplaceAllString(labels, "")
}

// bound is the label of a histogram's bucket, which client_golang writes last.
var bound = regexp.MustCompile(`,?le="[^"]*"}$|}$`)

// usedSeries are those that have another value than 0.
func usedSeries(page []byte) map[string]bool {
	used := map[string]bool{}
	for s := range allStats(page) {
		if s.value != "0" {
			used[seriesOf(s.name)] = true
		}
	}
	return used
}

// writePrometheus writes the series that are shown, and what is said of their metrics.
func writePrometheus(w http.ResponseWriter, page []byte, show func(stat) bool) {
	var about strings.Builder // of the metric that comes
	for lines := bufio.NewScanner(bytes.NewReader(page)); lines.Scan(); {
		line := lines.Text()
		if s, ok := statOf(line); ok {
			if show(s) {
				fmt.Fprintf(w, "%s%s\n", about.String(), line)
				about.Reset()
			}
			continue
		}
		if strings.HasPrefix(line, "# HELP ") {
			about.Reset()
		}
		about.WriteString(line + "\n")
	}
}
