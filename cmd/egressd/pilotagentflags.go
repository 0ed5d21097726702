// SPDX-License-Identifier: Apache-2.0

package main

import "strings"

// agentFlag is a flag of "pilot-agent proxy", of any version of Istio.
type agentFlag struct {
	name string
	flag string // of run, which does the same; "": none does
	// write writes its value as the flag takes it; nil: as it is.
	write func(string) string
	note  string
	alone bool // it may stand without a value
}

// alone is the value of a flag of run that takes none.
const alone = "\x00"

func noValue(string) string { return alone }

func local(port string) string { return "localhost:" + port }

const (
	noControlPlane = "there is no control plane: policy is in files (--config) and, with --kubernetes, in the API server"
	noEnvoy        = "there is no Envoy that is started or configured"
	noMixer        = "there is no Mixer"
	ownLog         = "the log goes to standard error, and the service manager or the kubelet keeps and rotates it"
	ownIdentity    = "a node needs no identity for a control plane; --node-name is its name in a cluster"
	otherTraces    = "traces go out by --otlp-endpoint or --zipkin-address; a collector that speaks OTLP leads them on"
	otherMetrics   = "Prometheus asks for metrics at --status-address; nothing sends them"
)

// agentFlags are those of pilot-agent's proxy, from Istio 1.0 on (pilot/cmd/pilot-agent)
// and of its log (pkg/log). Of several with one flag of run the last one counts.
var agentFlags = []agentFlag{
	{name: "domain", flag: "cluster-domain", write: clusterDomain, note: "with --cluster-cidr; cluster.local is usual"},
	{name: "proxyLogLevel", flag: "log-level", write: firstLevel, note: "there is one log"},
	{name: "log_output_level", flag: "log-level", write: defaultLevel, note: "and \"egressd log-level SCOPE=LEVEL\" while it runs"},
	{name: "proxyComponentLogLevel", note: "\"egressd log-level SCOPE=LEVEL\" while it runs"},
	{name: "log_as_json", flag: "log-format", write: func(string) string { return "json" }, alone: true},
	{name: "drainDuration", flag: "drain-time"},
	{name: "parentShutdownDuration", note: "run --drain-time is for this as well: the old daemon of a takeover ends when it has passed, or when nothing is open"},
	{name: "connectTimeout", note: "10 s; connectionPool.tcp.connectTimeout of a DestinationRule is another one"},
	{name: "serviceCluster", flag: "trace-service"},
	{name: "zipkinAddress", flag: "zipkin-address"},
	{name: "proxyAdminPort", flag: "admin-address", write: local},
	{name: "statusPort", flag: "status-address", write: local, note: ":PORT is for those who ask from elsewhere, such as a kubelet"},
	{name: "profiling", flag: "admin-profile", write: noValue, alone: true, note: "at --admin-address"},
	{name: "meshConfig", note: "a file of --config with kind: MeshConfig of egressd.dev/v1, or Istio's ConfigMap istio, also by --kubernetes"},
	{name: "trust-domain", note: "trustDomain of the MeshConfig (cluster.local)"},
	{name: "discoveryAddress", note: noControlPlane},
	{name: "discoveryRefreshDelay", note: noControlPlane},
	{name: "controlPlaneAuthPolicy", note: noControlPlane},
	{name: "controlPlaneBootstrap", note: noControlPlane, alone: true},
	{name: "serviceregistry", note: noControlPlane},
	{name: "pilotIdentity", note: noControlPlane},
	{name: "concurrency", note: "the variable GOMAXPROCS, and a CPU limit of the cgroup, which Go follows"},
	{name: "applicationPorts", note: "egressd is ready without asking applications; its own readiness is at --health-address"},
	{name: "availabilityZone", flag: "locality", note: "written as REGION/ZONE/SUBZONE"},
	{name: "binaryPath", note: noEnvoy},
	{name: "bootstrapv2", note: noEnvoy, alone: true},
	{name: "configPath", note: noEnvoy},
	{name: "customConfigFile", note: noEnvoy},
	{name: "templateFile", note: noEnvoy},
	{name: "outlierLogPath", note: "ejections are in the log and in the metrics"},
	{name: "dnsRefreshRate", note: "names are asked for anew when their answers expire; --dns-min-ttl and --dns-max-ttl bound that"},
	{name: "ip", note: ownIdentity},
	{name: "id", note: ownIdentity},
	{name: "proxyID", note: ownIdentity},
	{name: "mixerIdentity", note: noMixer},
	{name: "disableInternalTelemetry", note: "metrics are not sent anywhere", alone: true},
	{name: "statsdUdpAddress", note: otherMetrics},
	{name: "envoyMetricsServiceAddress", note: otherMetrics},
	{name: "envoyMetricsService", note: otherMetrics},
	{name: "envoyAccessLogService", flag: "access-log", note: "a file, or a collector that takes OTLP"},
	{name: "lightstepAddress", note: otherTraces},
	{name: "lightstepAccessToken", note: otherTraces},
	{name: "lightstepSecure", note: otherTraces, alone: true},
	{name: "lightstepCacertPath", note: otherTraces},
	{name: "datadogAgentAddress", note: otherTraces},
	{name: "stsPort", note: "no tokens are exchanged; the annotation egressd.dev/request-header-from adds one of a file or a Secret"},
	{name: "tokenManagerPlugin", note: "no tokens are exchanged"},
	{name: "log_caller", note: ownLog},
	{name: "log_rotate", note: ownLog},
	{name: "log_rotate_max_age", note: ownLog},
	{name: "log_rotate_max_backups", note: ownLog},
	{name: "log_rotate_max_size", note: ownLog},
	{name: "log_stacktrace_level", note: ownLog},
	{name: "log_target", note: ownLog},
	{name: "vklog", note: "run --log-level debug has what the client of the API server says"},
}

// usualDomain is what names of a cluster end in when nothing else is said.
const usualDomain = "cluster.local"

// clusterDomain is the cluster's part of what names of a namespace end in.
func clusterDomain(v string) string {
	if _, domain, ok := strings.Cut(v, ".svc."); ok {
		return domain
	}
	return v
}

// logLevels are Envoy's and Istio's levels that have other names here.
var logLevels = map[string]string{"trace": "debug", "warning": "warn", "critical": "error", "fatal": "error", "off": "error", "none": "error"}

func logLevelOf(v string) string {
	if l, ok := logLevels[v]; ok {
		return l
	}
	return v
}

// firstLevel is the level of all of Envoy's log, before those of its parts.
func firstLevel(v string) string {
	level, _, _ := strings.Cut(v, ",")
	return logLevelOf(level)
}

// defaultLevel is the level of the scope default, or of all, in Istio's form.
func defaultLevel(v string) string {
	level := "info"
	for part := range strings.SplitSeq(v, ",") {
		switch scope, l, ok := strings.Cut(part, ":"); {
		case !ok:
			level = scope
		case scope == "default" || scope == "all":
			level = l
		}
	}
	return logLevelOf(level)
}
