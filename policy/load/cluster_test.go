// SPDX-License-Identifier: Apache-2.0

package load

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio"
)

// The cluster of the benchmarks: what the API server of a big one gives, each
// object a file of its own.
const (
	clusterObjects    = 10_000
	clusterWorkloads  = 500
	clusterNamespaces = 20
)

// metadata is that of an object as the API server gives it.
func metadata(name, namespace, more string) string {
	return fmt.Sprintf(`{"name":%q,"namespace":%q,"uid":"6c1f2a1e-3b1c-4b62-9d3f-0c7d5f1a9b10","resourceVersion":"812345","generation":2,`+
		`"creationTimestamp":"2026-01-02T03:04:05Z"%s}`, name, namespace, more)
}

// clusterObject is the i-th of all objects, version n of it.
func clusterObject(all, i, n int) istio.File {
	ns := fmt.Sprintf("team-%d", i%clusterNamespaces)
	name := fmt.Sprintf("o%d", i)
	kind, version, rest := "ServiceEntry", "networking.istio.io/v1", ""
	switch k := i / clusterNamespaces % 20; {
	case k < 8:
		rest = fmt.Sprintf(`"metadata":%s,"spec":{"hosts":["h%d.example.com"],"ports":[{"number":443,"name":"tls","protocol":"TLS","targetPort":%d}],"resolution":"DNS"}`, metadata(name, ns, ""), i, 443+n)
	case k < 12:
		kind, version = "Service", "v1"
		rest = fmt.Sprintf(`"metadata":%s,"spec":{"clusterIP":"10.96.%d.%d","clusterIPs":["10.96.%d.%d"],"ipFamilies":["IPv4"],"ipFamilyPolicy":"SingleStack","internalTrafficPolicy":"Cluster","selector":{"app":"a%d"},"sessionAffinity":"None","type":"ClusterIP","ports":[{"name":"http","port":80,"protocol":"TCP","targetPort":%d}]}`,
			metadata(name, ns, ""), i/256, i%256, i/256, i%256, i%25, 8080+n)
	case k < 16:
		kind, version = "EndpointSlice", "discovery.k8s.io/v1"
		of := fmt.Sprintf("o%d", i-4*clusterNamespaces)
		rest = fmt.Sprintf(`"metadata":%s,"addressType":"IPv4","ports":[{"name":"http","port":%d,"protocol":"TCP"}],"endpoints":[{"addresses":["10.1.%d.%d"],"conditions":{"ready":true,"serving":true,"terminating":false},"nodeName":"n1","targetRef":{"kind":"Pod","name":"p","namespace":%q,"uid":"u"}},{"addresses":["10.2.%d.%d"],"conditions":{"ready":true,"serving":true,"terminating":false},"nodeName":"n2"}]`,
			metadata(name, ns, fmt.Sprintf(`,"labels":{"kubernetes.io/service-name":%q}`, of)), 8080+n, i/256, i%256, ns, i/256, i%256)
	case k < 18:
		kind = "VirtualService"
		rest = fmt.Sprintf(`"metadata":%s,"spec":{"hosts":["h%d.example.com"],"http":[{"timeout":"%ds","match":[{"uri":{"prefix":"/a"}}],"route":[{"destination":{"host":"h%d.example.com"}}]},{"route":[{"destination":{"host":"h%d.example.com"}}]}]}`,
			metadata(name, ns, ""), i%160, n+1, i%160, i%160)
	case k < 19:
		kind = "DestinationRule"
		rest = fmt.Sprintf(`"metadata":%s,"spec":{"host":"h%d.example.com","trafficPolicy":{"connectionPool":{"tcp":{"connectTimeout":"%ds"}}}}`, metadata(name, ns, ""), i%160, n+1)
	case i >= all-clusterNamespaces:
		kind = "Sidecar"
		rest = fmt.Sprintf(`"metadata":%s,"spec":{"egress":[{"hosts":["./*","team-%d/*"]}]}`, metadata(name, ns, ""), n%clusterNamespaces)
	default:
		kind, version = "AuthorizationPolicy", "security.istio.io/v1"
		rest = fmt.Sprintf(`"metadata":%s,"spec":{"action":"ALLOW","selector":{"matchLabels":{"app":"a%d"}},"rules":[{"from":[{"source":{"principals":["cluster.local/ns/%s/sa/s%d"]}}]}]}`,
			metadata(name, ns, ""), i%25, ns, n)
	}
	return istio.File{
		Name: fmt.Sprintf("kubernetes:%s/%s/%s", kind, ns, name),
		Data: fmt.Appendf(nil, `{"apiVersion":%q,"kind":%q,%s}`, version, kind, rest),
	}
}

// clusterWorkload is the i-th pod, whose labels are version n.
func clusterWorkload(i, n int) istio.File {
	ns := fmt.Sprintf("team-%d", i%clusterNamespaces)
	name := fmt.Sprintf("pod-%d", i)
	return istio.File{
		Name: fmt.Sprintf("kubernetes:Pod/%s/%s", ns, name),
		Data: fmt.Appendf(nil, `{"apiVersion":"egressd.dev/v1","kind":"Workload","metadata":{"name":%q,"namespace":%q,"labels":{"app":"a%d","pod-template-hash":"h%d","version":"v%d"}},"spec":{"cgroups":["kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod%d.slice/**"],"serviceAccount":"s%d"}}`,
			name, ns, i%25, i, n, i, i%7),
	}
}

// clusterFiles are so many objects, and the Pods.
func clusterFiles(objects int) []istio.File {
	var files []istio.File
	for i := range objects {
		files = append(files, clusterObject(objects, i, 0))
	}
	for i := range clusterWorkloads {
		files = append(files, clusterWorkload(i, 0))
	}
	return files
}

// changeOf finds an object of a kind, and gives version n of it.
func changeOf(files []istio.File, kind string) (int, func(n int) istio.File) {
	i := slices.IndexFunc(files, func(f istio.File) bool { return strings.HasPrefix(f.Name, "kubernetes:"+kind+"/") })
	objects := len(files) - clusterWorkloads
	if kind == "Pod" {
		return i, func(n int) istio.File { return clusterWorkload(i-objects, n) }
	}
	return i, func(n int) istio.File { return clusterObject(objects, i, n) }
}

// clusterReader is who reads the cluster again and again, as the daemon does.
type clusterReader struct {
	reader *istio.Reader
	was    *policy.Snapshot
}

func (c *clusterReader) load(t testing.TB, files []istio.File) (read, compile time.Duration) {
	start := cpu(t)
	config, findings := c.reader.Load(files)
	read = cpu(t) - start
	var now Result
	if err := now.Compile(config, c.was); err != nil {
		t.Fatal(err, findings)
	}
	c.was = now.Snapshot
	return read, cpu(t) - start - read
}

func newClusterReader() *clusterReader {
	return &clusterReader{istio.NewReader(istio.Options{}), new(policy.Snapshot)}
}

// BenchmarkClusterChange: one of 10,500 objects changes.
func BenchmarkClusterChange(b *testing.B) {
	for _, kind := range []string{"ServiceEntry", "Service", "EndpointSlice", "VirtualService", "DestinationRule", "AuthorizationPolicy", "Sidecar", "Pod"} {
		b.Run(kind, func(b *testing.B) {
			files := clusterFiles(clusterObjects)
			c := newClusterReader()
			c.load(b, files)
			at, change := changeOf(files, kind)
			n := 0
			var read, compile time.Duration
			b.ReportAllocs()
			for b.Loop() {
				n++
				files = slices.Clone(files)
				files[at] = change(n % 50)
				r, c := c.load(b, files)
				read += r
				compile += c
			}
			b.ReportMetric(float64(read.Microseconds())/1000/float64(n), "read-cpu-ms/op")
			b.ReportMetric(float64(compile.Microseconds())/1000/float64(n), "compile-cpu-ms/op")
		})
	}
}

// BenchmarkClusterStart reads all of it for the first time.
func BenchmarkClusterStart(b *testing.B) {
	files := clusterFiles(clusterObjects)
	var read, compile time.Duration
	var kept uint64
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		n++
		before := heap()
		c := newClusterReader()
		r, d := c.load(b, files)
		kept = heap() - before
		read += r
		compile += d
		if n == 1 {
			b.Logf("%d policies", len(c.was.Policies()))
		}
		runtime.KeepAlive(c)
	}
	b.ReportMetric(float64(read.Milliseconds())/float64(n), "read-cpu-ms/op")
	b.ReportMetric(float64(compile.Milliseconds())/float64(n), "compile-cpu-ms/op")
	b.ReportMetric(float64(kept)/(1<<20), "kept-MiB")
}

// BenchmarkClusterLabels reads it with rules that ask for the labels of 25
// applications, and of 500 Pods each for its own: that nobody else has does not
// matter to those that rules do not ask of it.
func BenchmarkClusterLabels(b *testing.B) {
	files := clusterFiles(clusterObjects)
	for i := range 25 {
		files = append(files, istio.File{Name: fmt.Sprint("labels-", i), Data: fmt.Appendf(nil, `{"apiVersion":"networking.istio.io/v1","kind":"VirtualService","metadata":{"name":"labels-%d","namespace":"team-0"},`+
			`"spec":{"hosts":["h%d.example.com"],"tls":[{"match":[{"sniHosts":["h%d.example.com"],"sourceLabels":{"app":"a%d"}}],"route":[{"destination":{"host":"h%d.example.com"}}]}]}}`, i, i*400, i*400, i, i*400)})
	}
	var compile time.Duration
	n := 0
	for b.Loop() {
		n++
		before := heap()
		c := newClusterReader()
		_, d := c.load(b, files)
		compile += d
		if n == 1 {
			b.Logf("%d policies for %d workloads, %d MiB", len(c.was.Policies()), clusterWorkloads, (heap()-before)>>20)
		}
		runtime.KeepAlive(c)
	}
	b.ReportMetric(float64(compile.Milliseconds())/float64(n), "compile-cpu-ms/op")
}

// TestCluster: what the benchmarks change is taken, and costs the policies that
// it concerns: a Pod that rules tell from no other changes no policy, nor does a
// Service that no rule leads to, and an equal group shares its policy.
func TestCluster(t *testing.T) {
	files := clusterFiles(40 * clusterNamespaces)
	c := newClusterReader()
	c.load(t, files)
	if n := len(c.was.Policies()); n != clusterNamespaces+1 {
		t.Errorf("%d policies for %d namespaces, each with a Sidecar", n, clusterNamespaces)
	}
	for kind, want := range map[string]int{"Pod": 0, "Service": 0, "EndpointSlice": 0, "AuthorizationPolicy": 0, "Sidecar": 1, "VirtualService": clusterNamespaces + 1} {
		at, change := changeOf(files, kind)
		files = slices.Clone(files)
		files[at] = change(1)
		was := c.was
		c.load(t, files)
		if n := len(policy.Diff(was, c.was).Policies); n > want {
			t.Errorf("a %s changes %d policies, want %d", kind, n, want)
		}
		fresh := newClusterReader()
		if fresh.load(t, files); fresh.was.Hash() != c.was.Hash() {
			t.Errorf("a %s: the policy is another one when it is read from nothing", kind)
		}
	}
}

// cpu is the time that the process has had so far: that of the clock is no
// measure on a machine that others use.
func cpu(t testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
