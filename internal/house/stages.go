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
	{"./policy", 9, []Stage{
		{"contract", "verdict endpoints snapshot"},
		{"config", "config* consent"},
		{"match", "match rewrite authz_path sidecar"},
		{"authorization", "authz*"},
		{"engine", "decide candidates address routes http l4 hop gateway access outbound policy reserved trace"},
		{"compile", "compile* classify scope base destination validate changes diff"},
		{"text", "text* digest authz_text"},
		{"explain", "branches why*"},
	}},
	{"./policy/istio", 9, []Stage{
		{"yaml", "parse* advice tree finding encode* suggest"},
		{"names", "hostset hint labels index"},
		{"objects", "load kinds* read export credential endpoints validate"},
		{"mesh", "meshconfig meshexport meshsource"},
		{"traffic", "httpaction httpmatch mirror cors delegate loadbalancer locality clienttls servertls trafficpolicy l4route selected addports"},
		{"kinds", "virtualservice httproute gateway destinationrule serviceentry workloadentry workload workload_conflict sidecar sidecar_ingress kubernetes authorization authsource authoperation"},
		{"gateway API", "gwapi*"},
		{"analysis", "analyze* conflict"},
		{"reader", "reader"},
	}},
	{"./loader", 28, []Stage{
		{"datapath", "datapath memory lock remedy features"},
		{"tables", "grow change workloads origins usage status events dialled others flows"},
		{"hooks", "attach filter follow steer guard enclosing foreign exempt"},
		{"pins", "bpffs pins holdpins hold"},
		{"takeover", "before earlier adopt rollback own"},
	}},
	{"./agent", 19, []Stage{
		{"options", "options search endpoint"},
		{"agent", "life agent"},
		{"state", "learned limits memory pins holding identify addresses status"},
		{"faces", "admin explain"},
		{"policy", "targets upkeep"},
		{"shift", "inherited takeover rollback shift"},
		{"start", "run start exec"},
	}},
	{"./forward", 8, []Stage{
		{"contract", "forward target path authority trailer"},
		{"connection", "core conn limits accept budget buffers"},
		{"bytes", "peeked pipes splice idle body"},
		{"upstreams", "draw heads transport upstreams upstream_conn pool recycle likeness"},
		{"opaque", "l4"},
		{"HTTP", "actions rewrite grpc http_* attempt retry upgrade"},
	}},
}
