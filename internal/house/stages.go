// SPDX-License-Identifier: Apache-2.0

package house

// Order is the order of the files of a package. A file uses what its own stage
// and the stages before it declare; what it uses of a later one is an arrow up.
type Order struct {
	Package string
	// Limit is the greatest share of arrows up among all arrows between two
	// files, in percent. It is what the package has, rounded up: lower it when
	// files have been moved, and never raise it. The goal is 10.
	Limit  int
	Stages []Stage
}

// Stage is one of them: names of files without ".go", where * stands for any
// letters.
type Stage struct{ Name, Files string }

// Orders are those of the packages that are too big to be read without one.
var Orders = []Order{
	{"./policy", 7, []Stage{
		{"config", "aliases"},
		{"digest", "digest"},
		{"contract", "verdict endpoints snapshot consent"},
		{"visibility", "sidecar"},
		{"engine", "decide candidates address routes http cors mirror l4 hop gateway visitor access outbound policy reserved trace cluster"},
		{"compile", "compile* classify scope base destination failover transport changes diff"},
		{"text", "text*"},
		{"explain", "branches why*"},
	}},
	{"./policy/istio", 8, []Stage{
		{"objects", "object loader memo finding suppress"},
		{"references", "export credential endpoints"},
		{"mesh", "meshconfig meshexport meshsource topology meshtelemetry cluster"},
		{"traffic", "requestheader httpaction httpmatch mirror clienttls servertls ciphers l4route selected addports"},
		{"kinds", "virtualservice httproute delegate gateway destinationrule serviceentry workloadentry workload workloadselector sidecar sidecar_ingress kubernetes authorizationpolicy telemetry"},
		{"reader", "kinds* read load reader"},
	}},
	{"./loader", 2, []Stage{
		{"state", "datapath memory grow usage iface workload_state hooks"},
		{"tables", "change workloads listeners own origins before follow status dialled others flows"},
		{"pins", "pins commit"},
		{"hooks", "attach guard steer"},
		{"takeover", "adopt rollback"},
		{"hold", "hold holdpins"},
		{"open", "open programs"},
	}},
	{"./agent", 0, []Stage{
		{"options", "options"},
		{"agent", "agent pins kubernetes flowlog"},
		{"state", "hold addresses status"},
		{"policy", "targets upkeep"},
		{"faces", "admin"},
		{"shift", "inherited takeover shift tenure"},
		{"start", "new run start exec"},
	}},
	{"./forward/upstream", 4, []Stage{
		{"endpoints", "keys places balancers"},
		{"transport", "transport silence http1_upstream retrybudget answers"},
		{"connections", "originated upstream_conn parked pool cluster_manager upstreams draw queue l4_balance"},
	}},
	{"./forward/httpproxy", 5, []Stage{
		{"answers", "answer clock life"},
		{"exchange", "http_handler credentials http_observe http_conn http_server http1_conn refusal http1_answer http_forward client idle sweep rest grpc headers visitor cors actions copies informational attempt retry"},
		{"upstream", "http_balance http1_send http1_splice upgrade"},
	}},
}
