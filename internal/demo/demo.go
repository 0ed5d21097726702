// SPDX-License-Identifier: Apache-2.0

// Package demo shows egressd at work: it starts it on the node of a little
// internet, lets ordinary programs try what they should and should not be
// able to do, and prints what happened and why.
package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"net/url"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/egressd/egressd/examples"
	"github.com/egressd/egressd/internal/world"
)

// ErrUnexpected is returned by Run when something did not happen as promised.
var ErrUnexpected = errors.New("not everything happened as promised")

const (
	eventWait  = 2 * time.Second
	eventEvery = 50 * time.Millisecond
	// queryEvery is how often the DNS proxy reports denials of one name: the
	// event of an attempt may be that of the attempt before it.
	queryEvery = time.Second
)

// Options says what Run does.
type Options struct {
	// Out takes the table or the JSON document.
	Out io.Writer
	// Color says that Out is a terminal that shows colours; the caller looks
	// at NO_COLOR.
	Color bool
	// JSON asks for a document instead of the table.
	JSON bool
	// Self is the path of the egressd binary.
	Self string
	// Config holds the policy's YAML files; nil is the seed policy, which the
	// attempts are made for.
	Config fs.FS
}

// stage is a running demo.
type stage struct {
	w      *world.World
	d      *world.Daemon
	cg     *world.Cgroup // of the workload
	report *report
	self   string
	curl   string // "" when it is not installed
}

// Run shows the demo, which takes about 15 s. It leaves nothing behind, also
// when ctx ends. It returns ErrUnexpected when a row was not as promised, and
// other errors when the demo could not be shown.
func Run(ctx context.Context, o Options) (err error) {
	if o.Config == nil {
		o.Config = examples.Seed()
	}
	config, err := policyFiles(o.Config)
	if err != nil {
		return err
	}
	s := &stage{report: &report{out: o.Out, color: o.Color, json: o.JSON}, self: o.Self}
	s.curl, _ = exec.LookPath("curl") // the built-in client does as well
	s.report.progress("building a little internet...")
	if s.w, err = world.New(world.Options{}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.w.Close()) }()
	if err := addService(s.w, config); err != nil {
		return err
	}
	// Nothing is to outlive the demo, wherever its bpf filesystem is mounted.
	if s.d, err = s.w.NewDaemon(o.Self, config, "--gateway-selector", "istio=ingressgateway", "--volatile-pins"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.d.Stop()) }()
	if s.cg, err = s.d.Root.Child("workload"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.cg.Close()) }()
	if err := s.play(ctx); err != nil {
		s.report.progress("")
		return err
	}
	if err := s.report.finish(); err != nil {
		return err
	}
	if s.report.unexpected() > 0 {
		return ErrUnexpected
	}
	return nil
}

// play runs the scenes.
func (s *stage) play(ctx context.Context) error {
	s.report.progress("starting egressd...")
	if err := s.d.Start(ctx); err != nil {
		return err
	}
	s.report.progress("")
	s.report.say("A node, a wire, an internet of its own; egressd runs on the node with the seed policy:")
	s.report.say("%s:80 and :443, external-db.xxx.yyy:3306, external-db:3306, productpage:9080, nothing else.", world.GoogleAPIs)
	s.report.head()
	slow := make(chan Row, 1)
	go func() { slow <- s.row(ctx, slowAttempt()) }()
	err := s.rows(ctx, append(attempts(s.w), visits()...))
	slowRow := s.await(slow) // soon, if ctx has ended
	if err != nil {
		return err
	}
	s.report.add(slowRow)
	if err := s.d.Kill(); err != nil {
		return err
	}
	if err := s.rows(ctx, killedAttempts()); err != nil {
		return err
	}
	if err := s.d.Start(ctx); err != nil {
		return err
	}
	if err := s.rows(ctx, backAttempts(s.w)); err != nil {
		return err
	}
	s.report.add(s.wireRow())
	return nil
}

// rows makes attempts one after the other until ctx ends.
func (s *stage) rows(ctx context.Context, list []attempt) error {
	for _, a := range list {
		s.report.progress("   " + a.what)
		row := s.row(ctx, a)
		if err := ctx.Err(); err != nil {
			return err
		}
		s.report.add(row)
	}
	return nil
}

// await shows that time passes until the slow row is there.
func (s *stage) await(slow <-chan Row) Row {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for n := 0; ; n++ {
		s.report.progress("   waiting for the slow origin" + strings.Repeat(".", n))
		select {
		case row := <-slow:
			return row
		case <-tick.C:
		}
	}
}

// row makes one attempt and finds out why it ended as it did.
func (s *stage) row(ctx context.Context, a attempt) Row {
	begin := time.Now()
	o := s.attempt(ctx, a)
	row := Row{What: a.what, Happened: describe(o), Why: a.note, OK: a.want(o) && !o.broken, Promise: a.promise, Took: o.Took}
	if len(a.reasons) == 0 || !row.OK {
		return row // no denial, so no reason
	}
	e, ok := s.why(ctx, a, begin)
	switch {
	case !ok:
		row.OK = false
		row.Why = "no event tells"
	case !slices.Contains(a.reasons, e.Reason):
		row.OK = false
		row.Why = string(e.Reason)
		row.Promise += fmt.Sprintf(" by %s", a.reasons[0])
	default:
		row.Why = string(e.Reason)
	}
	return row
}

// why waits for the denial of an attempt to appear among the events.
func (s *stage) why(ctx context.Context, a attempt, begin time.Time) (event, bool) {
	ctx, cancel := context.WithTimeout(ctx, eventWait)
	defer cancel()
	tick := time.NewTicker(eventEvery)
	defer tick.Stop()
	for {
		// An error of one call is one event less; the row tells.
		events, _ := askEvents(ctx, s.d)
		for i := len(events) - 1; i >= 0; i-- {
			if matches(events[i], a, begin) {
				return events[i], true
			}
		}
		select {
		case <-ctx.Done():
			return event{}, false
		case <-tick.C:
		}
	}
}

// matches says whether an event is the denial of an attempt that began then.
func matches(e event, a attempt, begin time.Time) bool {
	earliest := begin.Add(-eventEvery)
	if a.name != "" {
		earliest = begin.Add(-queryEvery)
	}
	if e.Allowed || e.Time.Before(earliest) {
		return false
	}
	if a.name != "" && !strings.EqualFold(strings.TrimSuffix(e.Name, "."), a.name) {
		return false
	}
	return !a.addr.IsValid() || e.Dst.Addr().Unmap() == a.addr
}

// wireRow tells what really left the node, whatever egressd says.
func (s *stage) wireRow() Row {
	all, bad := 0, 0
	for p, n := range s.w.Wire() {
		all += n
		forbidden := []string{world.StrangerV4, world.StrangerV6, world.OtherResolverV4, world.OtherResolverV6}
		if slices.ContainsFunc(forbidden, func(f string) bool { return netip.MustParseAddr(f) == p.Dst }) {
			bad += n
		}
	}
	asked := s.w.DNS.Asked(world.Stranger)
	return Row{
		What:     "what was seen on the wire",
		Happened: fmt.Sprintf("%d of %d packets astray", bad, all),
		Why:      fmt.Sprintf("and %d questions about %s", asked, world.Stranger),
		OK:       bad == 0 && asked == 0 && all > 0,
		Promise:  "none to the stranger, no question about it",
	}
}

// policyFiles reads the policy's files.
func policyFiles(files fs.FS) (map[string][]byte, error) {
	out := map[string][]byte{}
	names, err := fs.Glob(files, "*.yaml")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		b, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, err
		}
		out[name] = b
	}
	return out, nil
}

// productpage is the Service that the seed's Gateway routes to, said in
// Istio's words: outside Kubernetes there is no Service to find.
const productpage = `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata:
  name: productpage
spec:
  hosts:
  - productpage.default.svc.cluster.local
  ports:
  - number: 9080
    name: http
    protocol: HTTP
  location: MESH_INTERNAL
  resolution: STATIC
  endpoints:
  - address: 10.96.7.80
`

// addService starts that Service.
func addService(w *world.World, config map[string][]byte) error {
	config["productpage.yaml"] = []byte(productpage)
	_, err := w.AddOrigin(world.OriginConfig{
		Names: []string{"productpage.default.svc.cluster.local"},
		V4:    netip.MustParseAddr("10.96.7.80"), HTTP: []uint16{9080}, HTTPS: []uint16{},
	})
	return err
}

// client prepares a client process where the attempt is made.
func (s *stage) client(ctx context.Context, a attempt, name string, args ...string) *world.Cmd {
	if a.visitor {
		return s.w.Net.Command(ctx, nil, name, args...)
	}
	return s.w.Client(ctx, s.cg, name, args...)
}

// attempt runs one client process.
func (s *stage) attempt(ctx context.Context, a attempt) outcome {
	if a.try[0] == "http" && s.curl != "" {
		return s.runCurl(ctx, a)
	}
	out, err := s.client(ctx, a, s.self, append([]string{"demo-client"}, a.try...)...).Output()
	var o outcome
	if jerr := json.Unmarshal(out, &o); jerr != nil {
		return outcome{broken: true, Error: fmt.Sprintf("the built-in client failed: %v", errors.Join(err, jerr))}
	}
	return o
}

// runCurl does with curl what clientHTTP does.
func (s *stage) runCurl(ctx context.Context, a attempt) outcome {
	args := a.try[1:]
	curl := []string{
		"-q", "-sS", "--noproxy", "*", "--max-time", strconv.Itoa(int(clientTimeout.Seconds())),
		"-o", "/dev/null", "-w", "%{http_code} %{time_total}",
	}
	target, err := url.Parse(args[len(args)-1])
	if err != nil {
		return outcome{broken: true, Error: err.Error()}
	}
	for i := 0; i < len(args)-1; i++ {
		switch args[i] {
		case "-ca":
			i++
			curl = append(curl, "--cacert", args[i])
		case "-at":
			i++
			curl = append(curl, "--resolve", target.Hostname()+":"+portOf(target)+":"+args[i])
		default: // -4, -6
			curl = append(curl, args[i])
		}
	}
	out, err := s.client(ctx, a, s.curl, append(curl, target.String())...).Output()
	var o outcome
	var seconds float64
	if _, serr := fmt.Sscan(string(out), &o.Status, &seconds); serr != nil {
		o.broken = true // curl reports also when it fails
	}
	o.Took = time.Duration(seconds * float64(time.Second))
	if err != nil {
		o.Error = err.Error()
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && len(exit.Stderr) > 0 {
			o.Error = strings.TrimSpace(string(exit.Stderr))
		}
	}
	return o
}

// portOf is the port that a URL connects to.
func portOf(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	if u.Scheme == "https" {
		return "443"
	}
	return "80"
}
