// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"golang.org/x/sys/unix"
)

// cell is one subject in one benchmark.
type cell struct {
	Subject string    `json:"subject"`
	Values  []float64 `json:"values"`
	Median  float64   `json:"median"`
	// Ratio is the median over that of direct.
	Ratio float64 `json:"ratio"`
	// CPU is the proxy's median processor time, in the row's CPUUnit.
	CPU   float64 `json:"cpu,omitempty"`
	Error string  `json:"error,omitempty"`
	cpus  []float64
}

// row is one benchmark.
type row struct {
	Benchmark string  `json:"benchmark"`
	Unit      string  `json:"unit"`
	CPUUnit   string  `json:"cpuUnit"`
	Cells     []*cell `json:"cells"`
}

// result is all that was measured.
type result struct {
	Kernel   string    `json:"kernel"`
	Cores    int       `json:"cores"`
	Rounds   int       `json:"rounds"`
	Duration string    `json:"duration"`
	Peers    []string  `json:"peers,omitempty"`
	Notes    []string  `json:"notes,omitempty"`
	Rows     []*row    `json:"rows,omitempty"`
	Scale    []*scale  `json:"scale,omitempty"`
	Exec     *execCost `json:"exec,omitempty"`
}

func newResult(o options) *result {
	res := &result{Cores: runtime.NumCPU(), Rounds: o.rounds, Duration: o.duration.String()}
	var uts unix.Utsname
	if unix.Uname(&uts) == nil {
		res.Kernel = unix.ByteSliceToString(uts.Release[:])
	}
	// Whoever else runs takes from the proxies' core first, and distorts most
	// what they do.
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		load, _, _ := strings.Cut(string(text), " ")
		if n, err := strconv.ParseFloat(load, 64); err == nil && n > float64(res.Cores)/2 {
			res.Notes = append(res.Notes, "others used the machine at the start (load average "+load+"): repeat this when it is quiet")
		}
	}
	return res
}

// contest makes the rows of b's subjects.
func (res *result) contest(b *bench) {
	res.Notes = append(res.Notes, b.notes...)
	res.Peers = peers(b)
	for _, d := range b.benchmarks() {
		r := &row{Benchmark: d.name, Unit: d.unit, CPUUnit: d.cpuUnit}
		for _, c := range b.subjects {
			r.Cells = append(r.Cells, &cell{Subject: c.name})
		}
		res.Rows = append(res.Rows, r)
	}
}

// peers are the versions of the programs beside egressd, by their own words.
func peers(b *bench) []string {
	var out []string
	for _, c := range b.subjects {
		flag := map[string]string{"nginx": "-v", "haproxy": "-v", "sniproxy": "-V"}[c.name]
		if flag == "" {
			continue
		}
		said, err := exec.Command(c.name, flag).CombinedOutput()
		if err != nil {
			said = []byte(c.name + ": " + err.Error())
		}
		first, _, _ := strings.Cut(string(said), "\n")
		out = append(out, first)
	}
	return out
}

func (res *result) cell(d benchmark, c subject) *cell {
	for _, r := range res.Rows {
		for _, cl := range r.Cells {
			if r.Benchmark == d.name && cl.Subject == c.name {
				return cl
			}
		}
	}
	panic("bench: no cell for " + d.name + " and " + c.name) // newResult makes all
}

func (res *result) add(d benchmark, c subject, s sample) {
	cl := res.cell(d, c)
	cl.Values = append(cl.Values, s.value)
	cl.cpus = append(cl.cpus, s.cpu*d.cpuScale)
	cl.Median, cl.CPU = median(cl.Values), median(cl.cpus)
}

func (res *result) fail(d benchmark, c subject, err error) {
	res.cell(d, c).Error = err.Error()
	if errors.Is(err, errNoPart) {
		return
	}
	fmt.Fprintf(os.Stderr, "%s, %s: %v\n", d.name, c.name, err)
}

// ratios fills in each cell's relation to the first subject, direct.
func (res *result) ratios() {
	for _, r := range res.Rows {
		for _, cl := range r.Cells {
			if direct := r.Cells[0].Median; direct > 0 {
				cl.Ratio = cl.Median / direct
			}
		}
	}
}

// median of an unsorted, non-empty slice, which it leaves alone.
func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	n := len(s)
	if n%2 == 1 {
		return s[n/2]
	}
	return (s[n/2-1] + s[n/2]) / 2
}

func (res *result) writeJSON(w io.Writer) error {
	res.ratios()
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(res)
}

func (res *result) writeText(w io.Writer) error {
	res.ratios()
	fmt.Fprintf(w, "medians of %d rounds of %s, interleaved; Linux %s, %d cores, one for the proxy\n", res.Rounds, res.Duration, res.Kernel, res.Cores)
	for _, peer := range res.Peers {
		fmt.Fprintln(w, peer)
	}
	for _, note := range res.Notes {
		fmt.Fprintln(w, "note:", note)
	}
	for _, r := range res.Rows {
		fmt.Fprintf(w, "\n%s\n", r.Benchmark)
		tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintf(tw, "\t%s\tof direct\t%s\tspread\t\n", r.Unit, r.CPUUnit)
		for _, cl := range r.Cells {
			if cl.Error == errNoPart.Error() {
				continue
			}
			if len(cl.Values) == 0 {
				fmt.Fprintf(tw, "%s\tfailed\t\t\t\t\n", cl.Subject)
				continue
			}
			cpu := "-"
			if cl.CPU > 0 {
				cpu = fmt.Sprintf("%.1f", cl.CPU)
			}
			fmt.Fprintf(tw, "%s\t%s\t%.2f\t%s\t%s\t\n", cl.Subject, number(cl.Median), cl.Ratio, cpu, spread(cl.Values))
		}
		if err := tw.Flush(); err != nil {
			return err
		}
	}
	res.Exec.writeText(w)
	return res.writeScale(w)
}

// number prints about three digits.
func number(v float64) string {
	if v >= 100 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.1f", v)
}

// spread is the lowest and the highest value.
func spread(v []float64) string {
	return strings.Join([]string{number(slices.Min(v)), number(slices.Max(v))}, "..")
}
