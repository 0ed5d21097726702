// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/egressd/egressd/agent"
	"github.com/egressd/egressd/agent/observe"
	"github.com/egressd/egressd/internal/accesslog"
	"github.com/egressd/egressd/internal/tracing"
)

// observeFlags say who is told of requests and connections.
type observeFlags struct {
	log      observe.LogOptions
	size     int64
	sampling string
	verdicts string
	series   int
	profile  bool
	traces   tracing.Options
	traced   string
}

// megabyte is the unit of --access-log-size.
const megabyte = 1 << 20

func (f *observeFlags) register(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.log.To, "access-log", "", "where each request and connection that has ended has a line: a file, /dev/stdout, /dev/stderr, off, or a collector that takes lines by OTLP, http://ADDRESS:PORT, https://... or grpc://ADDRESS:PORT (default: what the MeshConfig's accessLogFile says, else off)")
	fs.StringVar(&f.log.Format, "access-log-format", "", "how a line looks, by Envoy's command operators as in '%REQ(:METHOD)% %RESPONSE_CODE%', or a JSON object of such strings (default: the MeshConfig's accessLogFormat, else Istio's)")
	fs.StringVar(&f.log.Encoding, "access-log-encoding", "", "TEXT or JSON (default: the MeshConfig's accessLogEncoding, else TEXT)")
	fs.Int64Var(&f.size, "access-log-size", 100, "size in MiB at which a file is renamed to FILE.1 and a new one is begun; 0: never. SIGUSR1 opens the files of --access-log and --flow-log again that somebody else has moved")
	fs.IntVar(&f.log.Kept, "access-log-keep", 5, "how many such old files stay")
	fs.StringVar(&f.sampling, "access-log-sampling", "100", "how many of the requests and connections have a line, in percent")
	fs.StringVar(&f.verdicts, "access-log-verdicts", "", "which have one: deny, would-deny, direct, inspect, proxy, separated by commas (default: all)")
	fs.IntVar(&f.series, "mesh-metrics-series", 1000, "how many series Istio's standard metrics may have (istio_requests_total and others); what comes beyond is counted together, with the label value other; 0: there are no such metrics")
	fs.StringVar(&f.traces.OTLP, "otlp-endpoint", "", "collector that spans of requests are sent to by OTLP: http://ADDRESS:PORT, https://... or grpc://ADDRESS:PORT")
	fs.StringVar(&f.traces.Zipkin, "zipkin-address", "", "collector that spans are sent to in Zipkin's format: ADDRESS:PORT or a URL (default: what the MeshConfig's defaultConfig.tracing says, else none)")
	fs.StringVar(&f.traced, "trace-sampling", "1", "how many requests are traced of which nobody before has decided, in percent; for --otlp-endpoint and --zipkin-address")
	fs.StringVar(&f.traces.Service, "trace-service", "egressd", "the service that spans, and lines of logs at a collector, are of")
	fs.BoolVar(&f.profile, "admin-profile", false, "have the admin interface show profiles of the process (/debug/pprof/)")
}

// options says what the flags want.
func (f *observeFlags) options(e env, o *agent.Options) (err error) {
	f.log.Service = f.traces.Service
	if f.log.Percent, err = accesslog.ParsePercent(f.sampling); err != nil {
		return usageError{fmt.Errorf("--access-log-sampling: %w", err)}
	}
	if f.log.Verdicts, err = accesslog.Verdicts(f.verdicts); err != nil {
		return usageError{fmt.Errorf("--access-log-verdicts: %w", err)}
	}
	if f.traces.Percent, err = accesslog.ParsePercent(f.traced); err != nil {
		return usageError{fmt.Errorf("--trace-sampling: %w", err)}
	}
	if f.traces.OTLP != "" && f.traces.Zipkin != "" {
		return usageError{fmt.Errorf("--otlp-endpoint and --zipkin-address: name one of them")}
	}
	if err := f.traces.Validate(); err != nil {
		return usageError{fmt.Errorf("--otlp-endpoint, --zipkin-address: %w", err)}
	}
	if f.size < 0 || f.log.Kept < 0 || f.series < 0 {
		return usageError{fmt.Errorf("--access-log-size, --access-log-keep and --mesh-metrics-series are 0 or more")}
	}
	f.log.Size = f.size * megabyte
	if err := f.log.Check(); err != nil {
		return usageError{fmt.Errorf("--access-log: %w", err)}
	}
	if f.series == 0 {
		f.series = -1
	}
	o.Profile = f.profile
	o.Observe = observe.Options{Access: f.log, Traces: f.traces, Series: f.series, Stdout: e.stdout, Stderr: e.stderr}
	return nil
}

// onSignal calls do at each signal, until stop is called.
func onSignal(sig os.Signal, do func()) (stop func()) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, sig)
	go func() {
		for range c {
			do()
		}
	}()
	return func() { signal.Stop(c); close(c) }
}

// reopens is the signal at which log files are opened anew.
const reopens = syscall.SIGUSR1
