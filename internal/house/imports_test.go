// SPDX-License-Identifier: Apache-2.0

package house

import (
	"strings"
	"testing"
)

// Groups of imports, by prefix. A prefix that starts with "./" is a package
// of this module.
var (
	ground      = []string{"./policy", "./internal/cow", "./internal/field", "./internal/hostname", "./internal/ipguard", "./internal/peek", "./internal/quote"}
	core        = append([]string{"./forward/originate", "./internal/certs", "./internal/flow", "./internal/learned", "./internal/dial", "./forward", "./forward/limits", "./forward/session"}, ground...)
	rooms       = []string{"./egress", "./ingress", "./dnsproxy", "./loader", "./policy/source"}
	loaderParts = []string{"./loader/abi", "./loader/arrival", "./loader/bpffs", "./loader/foreign", "./loader/grow", "./loader/kernel", "./loader/layout", "./loader/predecessor", "./loader/tables", "./loader/tc", "./loader/telemetry"}
	parts       = []string{"./agent/admin", "./agent/admin/ui", "./agent/containers", "./agent/control", "./agent/earlier", "./agent/events", "./agent/exec", "./agent/govern", "./agent/iface", "./agent/kubernetes", "./agent/learnedfile", "./agent/lifecycle", "./agent/listen", "./agent/observe", "./agent/origin", "./agent/own", "./agent/report", "./agent/resolve", "./agent/resources", "./agent/selfprobe", "./agent/shift", "./agent/state", "./agent/takeover", "./agent/teardown", "./agent/upkeep", "./agent/workload"}
)

// floors says what each package may import besides the standard library:
// packages, not trees, of this module; prefixes of others. The floors are
// those of docs/ARCHITECTURE.md: an import points down, and rooms stand side
// by side.
var floors = map[string][]string{
	// Ground.
	"./policy":                              {"./policy/config", "./policy/internal/authz", "./policy/internal/match", "./policy/internal/validate", "./internal/cow", "./internal/field", "./internal/hostname", "./internal/ipguard", "./internal/quote"},
	"./policy/istio/internal/code":          {"./policy/istio/internal/strictyaml"},
	"./policy/istio/internal/analyze":       {"./policy", "./policy/internal/match", "./policy/istio/internal/code", "./policy/istio/internal/model", "./policy/istio/internal/strictyaml", "./internal/hostname"},
	"./policy/istio/internal/check":         {"./policy", "./policy/istio/internal/code", "./policy/istio/internal/strictyaml", "./internal/hostname", "google.golang.org/protobuf/"},
	"./policy/istio/internal/requests":      {"./policy", "./policy/istio/internal/check", "./policy/istio/internal/model", "./policy/istio/internal/strictyaml", "istio.io/api/"},
	"./policy/istio/internal/traffic":       {"./policy", "./policy/istio/internal/check", "./policy/istio/internal/strictyaml", "istio.io/api/"},
	"./policy/istio/internal/gwapi":         {"./policy", "./policy/istio/internal/check", "./policy/istio/internal/model", "./policy/istio/internal/strictyaml", "./internal/hostname", "k8s.io/apimachinery/", "sigs.k8s.io/gateway-api/"},
	"./policy/istio/internal/authorization": {"./policy", "./policy/istio/internal/check", "./policy/istio/internal/code", "./policy/istio/internal/model", "./policy/istio/internal/strictyaml", "istio.io/api/"},
	"./policy/istio/internal/telemetry":     {"./internal/expression", "./internal/logformat", "./policy", "./policy/istio/internal/check", "./policy/istio/internal/model", "./policy/istio/internal/strictyaml", "istio.io/api/"},
	"./policy/istio/internal/model":         {"./policy"},
	"./policy/istio/internal/strictyaml":    {"./internal/quote", "./internal/spelling", "google.golang.org/protobuf/", "go.yaml.in/yaml/"},
	"./policy/config":                       {"./internal/field", "./internal/hostname", "./internal/ipguard"},
	"./policy/internal/match":               {"./policy/config", "./internal/field"},
	"./policy/internal/validate":            {"./policy/config", "./policy/internal/match", "./internal/hostname"},
	"./policy/internal/authz":               {"./policy/config", "./policy/internal/match", "./internal/ipguard"},
	"./policy/istio":                        {"./policy", "./policy/internal/match", "./policy/istio/internal/analyze", "./policy/istio/internal/code", "./policy/istio/internal/authorization", "./policy/istio/internal/check", "./policy/istio/internal/gwapi", "./policy/istio/internal/model", "./policy/istio/internal/requests", "./policy/istio/internal/strictyaml", "./policy/istio/internal/telemetry", "./policy/istio/internal/traffic", "./internal/hostname", "./internal/logformat", "istio.io/api/", "k8s.io/api/", "k8s.io/apimachinery/", "sigs.k8s.io/gateway-api/", "google.golang.org/protobuf/", "go.yaml.in/yaml/"},
	"./policy/semantics":                    nil, // tests alone
	"./internal/certs":                      nil,
	"./explain/learn":                       {"./internal/flow", "./internal/flowrecord", "./internal/hostname", "./internal/ipguard", "./internal/quote", "./policy", "./policy/allowlist", "./policy/istio", "./policy/scheme", "go.yaml.in/yaml/", "golang.org/x/net/publicsuffix"},
	"./explain/compare":                     {"./internal/flow", "./internal/telemetry", "./policy"},
	"./explain/replay":                      {"./explain", "./internal/flow", "./internal/flowrecord", "./internal/hostname", "./policy"},
	"./explain/expect":                      {"./explain", "./policy", "./policy/istio", "go.yaml.in/yaml/"},
	"./policy/scheme":                       {"./policy"},
	"./policy/allowlist":                    {"./policy", "./policy/scheme", "./internal/hostname"},
	"./internal/top":                        {"./internal/flow", "./policy"},
	"./internal/top/screen":                 {"./internal/flow", "./internal/quote", "./internal/top", "charm.land/bubbletea/", "github.com/charmbracelet/x/ansi"},
	"./internal/cow":                        nil,
	"./internal/field":                      nil,
	"./internal/expression":                 {"cel.dev/cel-go/"},
	"./internal/hostname":                   {"./internal/cow"},
	"./internal/hostile":                    nil,
	"./internal/logformat":                  nil,
	"./internal/naivehttp":                  nil,
	"./internal/ipguard":                    nil,
	"./internal/peek":                       nil,
	"./internal/peek/peektest":              nil,
	"./internal/quote":                      nil,
	"./internal/spelling":                   nil,
	"./internal/cgroup":                     {"github.com/fsnotify/fsnotify", "golang.org/x/sys/unix"},
	"./internal/podcgroup":                  nil,
	"./internal/container":                  {"./internal/podcgroup", "./policy/config"},
	"./internal/containerapi":               {"./internal/container", "golang.org/x/sys/unix", "google.golang.org/protobuf/"},
	"./internal/job":                        {"golang.org/x/sys/unix"},
	"./internal/memcg":                      nil,
	"./internal/netns":                      {"golang.org/x/sys/unix"},
	"./internal/gate":                       {"./internal/link", "github.com/vishvananda/netlink", "golang.org/x/sys/unix"},
	"./internal/sockdiag":                   {"./policy", "./internal/link", "./internal/netns", "github.com/vishvananda/netlink", "golang.org/x/sys/unix"},
	"./internal/link":                       {"github.com/vishvananda/netlink", "golang.org/x/sys/unix"},
	// Ports and connections to them.
	"./internal/connlimit":  {"golang.org/x/sys/unix"},
	"./internal/portholder": {"./internal/quote"},
	"./internal/capacity":   {"./internal/memcg", "golang.org/x/sys/unix"},
	// What it may do.
	"./internal/privilege": {"golang.org/x/sys/unix"},
	// Who holds a lock.
	"./internal/flock": {"golang.org/x/sys/unix"},
	// Egressd as a workload sees it.
	"./internal/probe": {"golang.org/x/net/dns/dnsmessage", "golang.org/x/sys/unix"},
	// Who started us.
	"./internal/sdnotify": {"./internal/handover", "./internal/logpipe", "./internal/quote", "github.com/coreos/go-systemd/v22/activation", "github.com/coreos/go-systemd/v22/daemon", "golang.org/x/sys/unix"},
	"./internal/handover": {"golang.org/x/sys/unix"},
	// Who reads what is written.
	"./internal/logfile":    {"golang.org/x/sys/unix"},
	"./internal/logpipe":    nil,
	"./internal/loglevel":   nil,
	"./internal/journallog": nil,
	// Text of others.
	// Places that nobody else can take.
	"./internal/securedir":   {"golang.org/x/sys/unix"},
	"./internal/localsocket": {"./internal/quote", "./internal/securedir", "golang.org/x/sys/unix"},
	// The kernel side's ABI.
	"./bpf": {"github.com/cilium/ebpf"},
	// Core.
	"./internal/flow": ground,
	// What people read of flows.
	"./internal/flowfilter":  {"./internal/flow", "./internal/flowrecord"},
	"./internal/flowsummary": {"./internal/flow", "./internal/flowrecord"},
	"./internal/flowlog":     {"./internal/collector", "./internal/flow", "./internal/flowrecord", "./internal/localsocket", "./internal/logfile", "./internal/logpipe", "go.opentelemetry.io/proto/"},
	"./internal/flowrecord":  {"./internal/flow", "./policy"},
	"./internal/accesslog":   {"./internal/collector", "./internal/field", "./internal/flow", "./internal/logformat", "./internal/logpipe", "./policy", "go.opentelemetry.io/proto/"},
	"./internal/collector":   {"go.opentelemetry.io/proto/", "google.golang.org/protobuf/"},
	"./internal/telemetry":   {"./internal/expression", "./internal/field", "./internal/flow", "./internal/hostname", "./policy"},
	"./internal/meshmetrics": {"./internal/field", "./internal/flow", "./internal/telemetry", "./policy", "github.com/prometheus/client_golang/"},
	"./internal/tracing":     {"./forward/session", "./internal/accesslog", "./internal/collector", "./internal/field", "./internal/flow", "./internal/telemetry", "./policy", "go.opentelemetry.io/", "google.golang.org/protobuf/"},
	// What DNS answers taught: the rooms ask it, and none of them owns it.
	"./internal/learned":     {"./policy", "./internal/hostname", "./internal/ipguard"},
	"./internal/dial":        {"./policy", "golang.org/x/sys/unix"},
	"./internal/proxyheader": nil,
	"./forward/http1":        {"./internal/field"},
	"./forward/frames":       {},
	"./forward/originate":    {"./internal/certs", "./policy", "golang.org/x/sys/unix"},
	"./forward/balance":      {"github.com/cespare/xxhash/v2"},
	"./forward/limits":       {"./internal/flow", "./policy"},
	"./forward/mirror":       {"./forward/downstream", "./forward/limits", "./forward/relay", "./forward/session", "./forward/upstream", "./internal/dial", "./internal/flow", "./policy"},
	"./forward/message":      {"./forward/http1", "./internal/field", "./internal/hostname", "./policy"},
	"./forward/session":      {"./forward/originate", "./forward/downstream", "./forward/limits", "./forward/relay", "./forward/upstream", "./internal/dial", "./internal/field", "./internal/flow", "./policy"},
	"./forward/httpproxy":    {"./forward/originate", "./forward/balance", "./forward/downstream", "./forward/frames", "./forward/http1", "./forward/limits", "./forward/message", "./forward/mirror", "./forward/relay", "./forward/session", "./forward/upstream", "./internal/dial", "./internal/field", "./internal/flow", "./policy", "golang.org/x/sys/unix"},
	"./forward/downstream":   {"./forward/limits", "./internal/flow", "./policy"},
	"./forward/upstream":     {"./forward/originate", "./forward/balance", "./forward/downstream", "./forward/frames", "./forward/http1", "./forward/limits", "./forward/relay", "./internal/dial", "./internal/field", "./internal/flow", "./policy", "golang.org/x/net/http2", "golang.org/x/sys/unix"},
	"./forward/relay":        {"./forward/http1", "./forward/limits", "./internal/flow", "./internal/peek", "./policy", "golang.org/x/sys/unix"},
	"./forward":              {"./forward/downstream", "./forward/http1", "./forward/originate", "./forward/httpproxy", "./forward/limits", "./forward/relay", "./forward/session", "./forward/upstream", "./internal/flow", "./internal/hostname", "./internal/proxyheader", "./internal/peek", "./policy"},
	// Parts of the loader: one job each, without its maps.
	"./loader/abi":         {"golang.org/x/sys/unix"},
	"./loader/arrival":     {"golang.org/x/sys/unix"},
	"./loader/kernel":      {"./bpf", "./internal/memcg", "./internal/privilege", "./internal/sockdiag", "./policy", "github.com/cilium/ebpf", "golang.org/x/sys/unix"},
	"./loader/grow":        {"./internal/memcg", "github.com/cilium/ebpf", "golang.org/x/sys/unix"},
	"./loader/layout":      {"github.com/cilium/ebpf"},
	"./loader/tc":          {"./bpf", "./internal/link", "github.com/cilium/ebpf", "github.com/vishvananda/netlink", "golang.org/x/sys/unix"},
	"./loader/bpffs":       {"./internal/flock", "./internal/securedir", "./loader/tc", "github.com/cilium/ebpf", "golang.org/x/sys/unix"},
	"./loader/predecessor": {"./bpf", "./loader/bpffs", "./loader/layout", "github.com/cilium/ebpf"},
	"./loader/foreign":     {"./internal/cgroup", "./loader/predecessor", "github.com/cilium/ebpf", "golang.org/x/sys/unix"},
	"./loader/telemetry":   {"./bpf", "./internal/peek", "./internal/sockdiag", "./loader/abi", "./policy", "github.com/cilium/ebpf"},
	"./loader/tables":      {"./bpf", "./policy"},
	// Rooms.
	"./loader":             join([]string{"./bpf", "./internal/cgroup", "./internal/netns", "./internal/sockdiag", "github.com/cilium/ebpf", "golang.org/x/sys/unix"}, loaderParts, core),
	"./dnsproxy":           join([]string{"github.com/miekg/dns", "golang.org/x/sys/unix"}, core),
	"./egress":             core,
	"./ingress":            join([]string{"./ingress/tlsserver", "./internal/certs", "./internal/localsocket"}, core),
	"./ingress/tlsserver":  {"./internal/certs", "./policy"},
	"./policy/source":      join([]string{"./policy/allowlist", "./policy/istio", "istio.io/", "k8s.io/"}, core),
	"./policy/source/kube": {"./internal/podcgroup", "./policy", "./policy/istio", "./policy/source", "k8s.io/"},
	// What people of a cluster see.
	"./policy/source/kubestatus":                   {"./internal/flow", "./internal/quote", "./policy", "./policy/istio", "./policy/source/kubestatus/internal/gwstatus", "github.com/go-logr/logr", "golang.org/x/time/rate", "k8s.io/", "sigs.k8s.io/gateway-api/"},
	"./policy/source/kubestatus/internal/gwstatus": {"./internal/hostname", "./policy/istio", "k8s.io/apimachinery/", "sigs.k8s.io/gateway-api/"},
	// Between files and people: no daemon.
	"./policy/load": {"./internal/hostname", "./policy", "./policy/istio", "./policy/source"},
	"./explain":     {"./internal/field", "./internal/flow", "./internal/hostname", "./internal/telemetry", "./policy", "./policy/allowlist", "./policy/istio", "./policy/scheme"},
	// What the roof knows of the loader's work.
	"./internal/hold": {"./internal/capacity", "./loader", "./loader/bpffs", "./loader/foreign"},
	// Parts of the daemon, which agent wires.
	"./agent/admin/ui":    {"./internal/flow"},
	"./agent/admin":       {"./agent/admin/ui", "./agent/state", "./explain", "./explain/learn", "./internal/connlimit", "./internal/link", "./internal/portholder", "./internal/sockdiag", "./policy", "golang.org/x/sys/unix"},
	"./agent/control":     {"./internal/securedir", "./policy", "./policy/load", "./policy/istio", "./policy/source"},
	"./agent/earlier":     {"./agent/workload", "./internal/cgroup", "./internal/flow", "./internal/sockdiag", "./loader", "./loader/predecessor", "./policy"},
	"./agent/events":      {"./explain", "./internal/flow", "./internal/flowfilter", "./loader/telemetry", "./policy"},
	"./agent/exec":        {"./agent/state", "./agent/takeover", "./agent/teardown", "./internal/cgroup", "./internal/job", "./internal/securedir", "./loader/bpffs", "./loader/foreign", "golang.org/x/sys/unix"},
	"./agent/govern":      {"./agent/control", "./agent/workload", "./loader", "./policy"},
	"./agent/iface":       {"./internal/link", "./loader", "./policy", "golang.org/x/sys/unix"},
	"./agent/lifecycle":   {"./agent/control", "./loader/bpffs", "./loader/predecessor", "./policy", "./policy/istio"},
	"./agent/listen":      {"./explain", "./internal/dial", "./internal/gate", "./internal/handover", "./internal/link", "./internal/portholder", "./loader", "./loader/arrival", "golang.org/x/sys/unix"},
	"./agent/kubernetes":  {"./agent/control", "./policy/source/kube", "./policy/source/kubestatus"},
	"./agent/learnedfile": {"./agent/control", "./agent/state", "./internal/learned", "./internal/securedir", "./policy"},
	"./agent/observe":     {"./internal/accesslog", "./internal/flow", "./internal/flowlog", "./internal/logfile", "./internal/meshmetrics", "./internal/telemetry", "./internal/tracing", "./internal/field", "./forward/session", "./policy", "github.com/prometheus/client_golang/"},
	"./agent/origin":      {"./dnsproxy", "./forward", "./internal/flow", "./internal/probe", "./loader", "./loader/arrival"},
	"./agent/own":         {"./agent/listen", "./agent/state", "./internal/ipguard", "./internal/link", "./loader", "./policy"},
	"./agent/report":      {"./policy/source/kube", "./agent/control", "./agent/iface", "./agent/selfprobe", "./agent/workload", "./dnsproxy", "./forward", "./forward/limits", "./internal/certs", "./internal/flow", "./internal/hold", "./internal/learned", "./internal/memcg", "./loader", "./policy", "./policy/istio", "./policy/source/kubestatus", "github.com/prometheus/client_golang/"},
	"./agent/resolve":     {"./dnsproxy", "./policy/source", "golang.org/x/sys/unix"},
	"./agent/resources":   {"./forward", "./forward/limits", "./internal/capacity", "./internal/learned", "./internal/memcg", "./loader"},
	"./agent/selfprobe":   {"./agent/listen", "./agent/state", "./agent/workload", "./dnsproxy", "./internal/capacity", "./internal/cgroup", "./internal/probe", "./loader", "./loader/arrival", "./policy", "golang.org/x/sys/unix"},
	"./agent/shift":       nil,
	"./agent/state":       {"./internal/flock", "./internal/handover", "./internal/localsocket", "./internal/securedir", "./loader/bpffs", "golang.org/x/sys/unix"},
	"./agent/takeover":    {"./agent/state", "./internal/flock", "./internal/handover", "./internal/learned", "./internal/securedir", "golang.org/x/sys/unix"},
	"./agent/teardown":    {"./agent/state", "./internal/cgroup", "./internal/flock", "./internal/gate", "./internal/securedir", "./loader/bpffs", "./loader/foreign", "./loader/predecessor"},
	"./agent/upkeep":      nil,
	"./agent/containers":  {"./internal/container", "./internal/containerapi", "./internal/localsocket"},
	"./agent/workload":    {"./agent/state", "./internal/cgroup", "./internal/container", "./internal/podcgroup", "./loader", "./loader/predecessor", "./policy"},
	// Roof.
	"./agent":       join(parts, []string{"./internal/certs", "./policy/source/kube", "./policy/source/kubestatus", "./explain", "./explain/learn", "./loader/bpffs", "./loader/kernel", "./loader/telemetry", "./internal/hold", "./internal/cgroup", "./internal/container", "./internal/flowlog", "./internal/gate", "./internal/handover", "./internal/link", "./internal/loglevel", "./internal/sdnotify", "./policy/istio", "github.com/prometheus/client_golang/"}, core, rooms),
	"./cmd/egressd": join(parts, []string{"./policy/source/kube", "./explain", "./internal/certs", "./explain/compare", "./explain/expect", "./explain/learn", "github.com/aymanbagabas/go-udiff", "./policy/load", "./internal/hold", "./agent", "./dnsproxy", "./loader", "./policy/source", "./explain/replay", "./internal/accesslog", "./internal/flowfilter", "./internal/flowlog", "./internal/flowrecord", "./internal/flowsummary", "./internal/tracing", "./internal/journallog", "./internal/loglevel", "./internal/logpipe", "./internal/demo", "./internal/flock", "./internal/localsocket", "./internal/privilege", "./internal/probe", "./internal/quote", "./internal/securedir", "./internal/spelling", "./policy/istio", "./internal/top", "./internal/top/screen", "charm.land/bubbletea/", "github.com/coreos/go-systemd/v22/journal", "github.com/spf13/cobra", "github.com/spf13/pflag", "golang.org/x/tools/txtar", "golang.org/x/sys/unix"}, core),
	// The plugin of kubectl runs elsewhere, and knows of the daemon what that prints.
	"./cmd/kubectl-egress": {"./internal/quote", "github.com/spf13/cobra"},
	// What shows and tests the house stands beside it.
	"./internal/world":               {"./internal/cgroup", "github.com/miekg/dns", "github.com/vishvananda/netlink", "golang.org/x/net/dns/dnsmessage", "golang.org/x/sys/unix"},
	"./internal/testenv":             {"./internal/world", "./internal/cgroup", "github.com/cilium/ebpf", "golang.org/x/sys/unix"},
	"./internal/machine":             {"./internal/world", "github.com/vishvananda/netlink", "golang.org/x/sys/unix", "gvisor.dev/gvisor/pkg/tcpip"},
	"./internal/kubetest":            {"./internal/cgroup", "./internal/testenv", "k8s.io/", "golang.org/x/sys/unix"},
	"./internal/nodetest":            {"./internal/kubetest", "./internal/testenv", "./internal/world"},
	"./internal/systemdtest":         {"./internal/testenv", "./internal/world"},
	"./internal/demo":                {"./examples", "./internal/world", "./policy"},
	"./internal/learned/learnedtest": {"./policy", "./internal/hostname"},
	"./internal/attack":              nil,
	"./internal/e2e":                 nil,
	"./internal/house":               nil,
	"./hack/house":                   {"./internal/house"},
	"./hack/bpfcover":                {"github.com/cilium/ebpf", "github.com/cilium/ebpf/asm", "github.com/cilium/ebpf/btf"},
	"./hack/bench":                   {"./policy/load", "./internal/peek/peektest", "./internal/world", "golang.org/x/sys/unix"},
	"./hack/bench/kubernetes":        {"./internal/kubetest", "./internal/podcgroup", "./internal/world", "./policy/source/kube", "k8s.io/", "golang.org/x/sys/unix"},
	"./hack/kube/tool":               {"github.com/miekg/dns"},
	"./hack/soak":                    {"./internal/world"},
	"./examples":                     nil,
	"./examples/bookinfo":            nil,
}

// keepers says who may import what only a few may; tests as well, except that
// a test that plays a server may speak its protocol.
var keepers = []struct {
	prefix  string
	by      []string
	inTests []string
}{
	{"github.com/miekg/dns", []string{"./dnsproxy", "./internal/world", "./hack/kube/tool"}, nil},
	{"github.com/cilium/ebpf", []string{"./bpf", "./loader", "./loader/bpffs", "./loader/foreign", "./loader/grow", "./loader/kernel", "./loader/layout", "./loader/predecessor", "./loader/tc", "./loader/telemetry", "./internal/testenv", "./hack/bpfcover"}, []string{"./internal/systemdtest"}},
	{"github.com/vishvananda/netlink", []string{"./internal/world", "./internal/machine", "./internal/link", "./internal/sockdiag", "./internal/gate", "./loader/tc"}, []string{"./loader", "./agent", "./internal/testenv", "./internal/gate"}},
	{"gvisor.dev/gvisor", []string{"./internal/machine"}, nil},
	{"./internal/machine", nil, []string{"*"}},
	{"github.com/aymanbagabas/go-udiff", []string{"./cmd/egressd"}, nil},
	{"golang.org/x/net/publicsuffix", []string{"./explain/learn"}, nil},
	{"github.com/spf13/cobra", []string{"./cmd/egressd", "./cmd/kubectl-egress"}, nil},
	{"charm.land/", []string{"./cmd/egressd", "./internal/top/screen"}, nil},
	{"istio.io/", []string{"./policy/istio", "./policy/istio/internal/authorization", "./policy/istio/internal/requests", "./policy/istio/internal/telemetry", "./policy/istio/internal/traffic", "./policy/source"}, nil},
	{"k8s.io/", []string{"./policy/istio", "./policy/istio/internal/gwapi", "./policy/source", "./policy/source/kube", "./policy/source/kubestatus", "./policy/source/kubestatus/internal/gwstatus", "./internal/kubetest", "./hack/bench/kubernetes"}, []string{"./internal/e2e"}},
	{"k8s.io/client-go/", []string{"./policy/source/kube", "./policy/source/kubestatus", "./internal/kubetest", "./hack/bench/kubernetes"}, nil},
	{"sigs.k8s.io/gateway-api/", []string{"./policy/istio", "./policy/istio/internal/gwapi", "./policy/source/kubestatus", "./policy/source/kubestatus/internal/gwstatus"}, nil},
	{"cel.dev/", []string{"./internal/expression"}, nil},
	{"go.opentelemetry.io/", []string{"./internal/flowlog", "./internal/accesslog", "./internal/collector", "./internal/tracing"}, nil},
	{"golang.org/x/tools/", []string{"./cmd/egressd"}, []string{"./policy/semantics"}},
	{"google.golang.org/grpc", nil, []string{"./forward", "./internal/e2e"}},
	{"./bpf", []string{"./loader", "./loader/kernel", "./loader/predecessor", "./loader/tables", "./loader/tc", "./loader/telemetry"}, nil},
	{"./internal/hostile", nil, []string{"*"}},
	{"./internal/naivehttp", nil, []string{"*"}},
	{"./internal/peek/peektest", []string{"./hack/bench"}, []string{"*"}},
	{"./internal/learned/learnedtest", nil, []string{"./internal/learned", "./dnsproxy"}},
	{"./internal/testenv", []string{"./internal/kubetest", "./internal/nodetest", "./internal/systemdtest"}, []string{"*"}},
	{"./internal/kubetest", []string{"./internal/nodetest", "./hack/bench/kubernetes"}, []string{"*"}},
	{"./internal/nodetest", nil, nil},
	{"./internal/systemdtest", nil, nil},
	{"./internal/world", []string{"./internal/testenv", "./internal/nodetest", "./internal/systemdtest", "./internal/machine", "./internal/demo", "./hack/bench", "./hack/bench/kubernetes", "./hack/soak"}, []string{"*"}},
}

func join(lists ...[]string) []string {
	var out []string
	for _, l := range lists {
		out = append(out, l...)
	}
	return out
}

func TestFloors(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range packages(t) {
		name := short(p.ImportPath)
		seen[name] = true
		allowed, ok := floors[name]
		if !ok {
			if len(p.GoFiles) > 0 {
				t.Errorf("%s stands on no floor: say in floors what it may import", name)
			}
			continue
		}
		for _, path := range p.Imports {
			if imp := short(path); !standard(imp) && !permits(allowed, imp) {
				t.Errorf("%s may not import %s", name, imp)
			}
		}
	}
	for name := range floors {
		if !seen[name] {
			t.Errorf("floors names %s, which is not there", name)
		}
	}
}

func TestRoomsStandSideBySide(t *testing.T) {
	for _, a := range rooms {
		for _, b := range rooms {
			if permits(floors[a], b) {
				t.Errorf("floors lets the room %s import the room %s", a, b)
			}
		}
	}
}

func TestKeepers(t *testing.T) {
	for _, p := range packages(t) {
		name := short(p.ImportPath)
		for _, k := range keepers {
			for _, path := range p.Imports {
				if permits([]string{k.prefix}, short(path)) && !permits(k.by, name) {
					t.Errorf("%s imports %s, which is kept to %v", name, short(path), k.by)
				}
			}
			inTests := join(k.by, k.inTests)
			for _, path := range join(p.TestImports, p.XTestImports) {
				if permits([]string{k.prefix}, short(path)) && !permits(inTests, name) {
					t.Errorf("a test of %s imports %s, which is kept to %v", name, short(path), inTests)
				}
			}
		}
	}
}

// permits says whether an import is in a list: by its exact name for this
// module's packages and those without a slash at the end, else by prefix.
func permits(list []string, imp string) bool {
	for _, l := range list {
		switch {
		case l == "*", l == imp:
			return true
		case strings.HasPrefix(l, "./"):
		case strings.HasPrefix(imp, strings.TrimSuffix(l, "/")+"/"):
			return true
		}
	}
	return false
}

// standard says whether an import path is the standard library's: its first
// element has no dot.
func standard(imp string) bool {
	first, _, _ := strings.Cut(imp, "/")
	return !strings.Contains(first, ".")
}

func TestPermits(t *testing.T) {
	for _, c := range []struct {
		list []string
		imp  string
		want bool
	}{
		{[]string{"./policy"}, "./policy", true},
		{[]string{"./policy"}, "./policy/source", false},
		{[]string{"k8s.io/"}, "k8s.io/api/core/v1", true},
		{[]string{"k8s.io/"}, "k8s.iox/api", false},
		{[]string{"github.com/cilium/ebpf"}, "github.com/cilium/ebpf/link", true},
		{[]string{"github.com/cilium/ebpf"}, "github.com/cilium/ebpf-manager", false},
		{nil, "./policy", false},
	} {
		if got := permits(c.list, c.imp); got != c.want {
			t.Errorf("permits(%v, %q) = %t", c.list, c.imp, got)
		}
	}
	if !standard("net/netip") || standard("golang.org/x/sys/unix") || standard("./policy") {
		t.Error("standard tells the standard library from others wrongly")
	}
}
