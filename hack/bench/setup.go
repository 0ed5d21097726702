// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/egressd/egressd/internal/world"
)

const (
	host     = "bench.example.com"
	originV4 = "151.101.1.10"
	// The ports of the byte streams, opaque and with a ClientHello, and the
	// one that says how much of them arrived.
	tcpPort = 5001
	// vipV4 is nowhere; egressd's policy names the origin as its endpoint.
	vipV4    = "240.0.0.1"
	tlsPort  = 8443
	sinkPort = 5002
	// gatewayPort is where visitors' TLS ends.
	gatewayPort = 9443
	// startWait bounds how long a server may take to listen.
	startWait = 10 * time.Second
)

// subject is one way from the client to the origin.
type subject struct {
	name string
	// addr is where the host's name leads the client: the origin itself, or a
	// proxy on the node.
	addr string
	// cg is the client's cgroup; nil: the bench's own.
	cg *world.Cgroup
	// gateway is where it ends the TLS of visitors; "": nowhere.
	gateway string
	// tlsOnly: it cannot forward opaque TCP; httpOnly: nor TLS.
	tlsOnly, httpOnly bool
	// few: it is not set up for more than some thousand connections.
	few bool
	// on is the track of its own that it is on; nil: the one of all others.
	on *bench
	// cpu is the processor time that the proxy has used; nil: there is none.
	cpu func() (time.Duration, error)
}

// bench is the laid-out track.
type bench struct {
	options
	w        *world.World
	dir      string
	subjects []subject
	notes    []string          // who is left out, and why
	policy   map[string][]byte // egressd's further configuration, by file name
	daemon   *world.Daemon
	started  time.Duration // what the daemon took to be ready
	half     *half         // of the measurement of latency
	idles    int           // connections of the one that holds them
	closers  []func() error
}

// newBench builds the world, the origin and the subjects.
func newBench(ctx context.Context, o options, policy map[string][]byte) (b *bench, err error) {
	b = &bench{options: o, policy: policy, half: &half{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	if b.w, err = world.New(world.Options{NoTap: true}); err != nil {
		return b, err
	}
	b.closers = append(b.closers, b.w.Close)
	if b.measures(heldKey) {
		if b.idles = idleConnections(); b.idles < heldIdle {
			b.notes = append(b.notes, fmt.Sprintf("%d idle connections are held, for there may be no more descriptors", b.idles))
		}
	}
	b.dir = b.w.Dir()
	for _, ns := range []*world.Netns{b.w.Node, b.w.Net} {
		if err := ns.Do(tune); err != nil {
			return b, err
		}
	}
	if err := b.w.AddName(host, netip.MustParseAddr(originV4), netip.Addr{}); err != nil {
		return b, err
	}
	if err := b.origin(ctx); err != nil {
		return b, fmt.Errorf("origin: %w", err)
	}
	b.subjects = append(b.subjects, subject{name: "direct", addr: originV4, gateway: originV4})
	for _, c := range []struct {
		name string
		add  func(context.Context) error
	}{{"nginx", b.nginx}, {"nginx-close", b.nginxClose}, {"haproxy", b.haproxy}, {"sniproxy", b.sniproxy}, {floorName, b.floor}, {"egressd", b.egress}} {
		if !o.wanted(c.name) || c.name == floorName && o.only == "" {
			continue
		}
		if err := c.add(ctx); err != nil {
			b.notes = append(b.notes, fmt.Sprintf("%s is left out: %v", c.name, err))
		}
	}
	if len(b.subjects) == 1 {
		return b, fmt.Errorf("nobody to compare with: %v", b.notes)
	}
	return b, nil
}

// another lays out a track for another binary of egressd, and has it take part as name.
func (b *bench) another(ctx context.Context, binary, name string) (*bench, error) {
	o := b.options
	o.egressd, o.only = binary, "egressd"
	other, err := newBench(ctx, o, nil)
	if err != nil {
		return nil, err
	}
	c := other.subjects[len(other.subjects)-1]
	c.name, c.on, other.half = name, other, b.half
	b.subjects = append(b.subjects, c)
	return other, nil
}

// close undoes in reverse order.
func (b *bench) close() error {
	var errs []error
	for i := len(b.closers) - 1; i >= 0; i-- {
		errs = append(errs, b.closers[i]())
	}
	b.closers = nil
	return errors.Join(errs...)
}

// tune gives a namespace enough ports for many short connections.
func tune() error {
	return errors.Join(
		os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("1024 65535"), 0),
		os.WriteFile("/proc/sys/net/ipv4/tcp_tw_reuse", []byte("1"), 0),
	)
}

// pin puts taskset before a command: the proxy has a core of its own, as the
// client and the origin have as far as there are cores.
func pin(role string, line ...string) []string {
	n := runtime.NumCPU()
	if _, err := exec.LookPath("taskset"); err != nil || n < 2 {
		return line
	}
	core := map[string]int{"proxy": 0, "client": 1, "origin": min(2, n-1)}[role]
	return append([]string{"taskset", "-c", fmt.Sprint(core)}, line...)
}

// server starts a long-running process in a namespace and a cgroup of its own
// and waits until it listens.
func (b *bench) server(ctx context.Context, name, role string, ns *world.Netns, listens netip.AddrPort, line ...string) (*world.Cgroup, error) {
	cg, err := world.NewCgroup(name)
	if err != nil {
		return nil, err
	}
	b.closers = append(b.closers, cg.Close)
	line = pin(role, line...)
	c := ns.Command(context.WithoutCancel(ctx), cg, line[0], line[1:]...)
	log, err := os.Create(filepath.Join(b.dir, name+".log"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }() // the process has its own descriptor
	c.Stdout, c.Stderr = log, log
	if err := c.Start(); err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }() // ends when close kills the cgroup
	deadline := time.After(startWait)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if conn, err := ns.Dial(ctx, "tcp", listens); err == nil {
			return cg, conn.Close()
		}
		select {
		case err := <-ended:
			out, _ := os.ReadFile(log.Name()) // the error says enough without
			return nil, fmt.Errorf("%s ended: %v: %s", name, err, out)
		case <-deadline:
			return nil, fmt.Errorf("%s does not listen on %s", name, listens)
		case <-tick.C:
		}
	}
}

// write puts a file into the bench's directory.
func (b *bench) write(name, content string) (string, error) {
	path := filepath.Join(b.dir, name)
	return path, os.WriteFile(path, []byte(content), 0o644)
}

// origin is nginx with a small answer on 80 and 443, and the sink.
func (b *bench) origin(ctx context.Context) error {
	if err := errors.Join(writeCert(b.dir), writeLarge(b.dir)); err != nil {
		return err
	}
	conf, err := b.write("origin.conf", fmt.Sprintf(originConf, b.dir, originV4, gatewayPort, uploadPort))
	if err != nil {
		return err
	}
	at := netip.MustParseAddr(originV4)
	if _, err := b.server(ctx, "origin", "origin", b.w.Net, netip.AddrPortFrom(at, 80), "nginx", "-c", conf, "-e", "stderr"); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	_, err = b.server(ctx, "sink", "origin", b.w.Net, netip.AddrPortFrom(at, sinkPort), self, sinkVerb, originV4)
	return err
}

func (b *bench) proxy(ctx context.Context, name, addr string, line ...string) error {
	if _, err := exec.LookPath(line[0]); err != nil {
		return err
	}
	cg, err := b.server(ctx, name, "proxy", b.w.Node, netip.AddrPortFrom(netip.MustParseAddr(addr), 80), line...)
	if err != nil {
		return err
	}
	b.subjects = append(b.subjects, subject{name: name, addr: addr, cpu: cg.CPU})
	return nil
}

func (b *bench) nginx(ctx context.Context) error {
	conf, err := b.write("nginx.conf", fmt.Sprintf(nginxConf, b.dir, originV4, host, tcpPort, tlsPort, gatewayPort))
	if err != nil {
		return err
	}
	if err := b.proxy(ctx, "nginx", "127.0.0.2", "nginx", "-c", conf, "-e", "stderr"); err != nil {
		return err
	}
	b.subjects[len(b.subjects)-1].gateway = "127.0.0.2"
	return nil
}

func (b *bench) nginxClose(ctx context.Context) error {
	conf, err := b.write("nginx-close.conf", fmt.Sprintf(nginxCloseConf, b.dir, originV4))
	if err != nil {
		return err
	}
	if err := b.proxy(ctx, "nginx-close", "127.0.0.5", "nginx", "-c", conf, "-e", "stderr"); err != nil {
		return err
	}
	b.subjects[len(b.subjects)-1].httpOnly = true
	return nil
}

func (b *bench) haproxy(ctx context.Context) error {
	conf, err := b.write("haproxy.cfg", fmt.Sprintf(haproxyConf, originV4, host, tcpPort, tlsPort))
	if err != nil {
		return err
	}
	if err := b.proxy(ctx, "haproxy", "127.0.0.3", "haproxy", "-db", "-f", conf); err != nil {
		return err
	}
	b.subjects[len(b.subjects)-1].few = true
	return nil
}

func (b *bench) sniproxy(ctx context.Context) error {
	conf, err := b.write("sniproxy.conf", fmt.Sprintf(sniproxyConf, b.dir, originV4, strings.ReplaceAll(host, ".", `\.`), tlsPort))
	if err != nil {
		return err
	}
	if err := b.proxy(ctx, "sniproxy", "127.0.0.4", "sniproxy", "-f", "-c", conf); err != nil {
		return err
	}
	b.subjects[len(b.subjects)-1].tlsOnly, b.subjects[len(b.subjects)-1].few = true, true
	return nil
}

// egress adds egressd. Its client runs captured and dials the origin.
func (b *bench) egress(ctx context.Context) error {
	config := map[string][]byte{"bench.yaml": fmt.Appendf(nil, egressdConf, host, tcpPort, tlsPort, vipV4, originV4)}
	if b.shared {
		config["shared.yaml"] = fmt.Appendf(nil, sharedConf, host)
	}
	maps.Copy(config, b.policy)
	var gateway string
	var flags []string
	if b.measures(terminateKey) || b.measures(handshakeKey) {
		gateway, flags = "127.0.0.6", []string{"--gateway-selector", "bench=gateway", "--credentials-dir", b.dir}
		config["gateway.yaml"] = fmt.Appendf(nil, gatewayConf, host, gateway, gatewayPort, b.dir)
	}
	if b.options.profile != "" {
		flags = append(flags, "--admin-profile")
	}
	d, err := b.w.NewDaemon(b.egressd, config, flags...)
	if err != nil {
		return err
	}
	b.closers = append(b.closers, d.Stop)
	if len(b.policy) == 0 {
		d.Prefix = pin("proxy")
	}
	start := time.Now()
	if err := d.Start(ctx); err != nil {
		return err
	}
	b.started, b.daemon = time.Since(start), d
	cg, err := d.Root.Child("client")
	if err != nil {
		return err
	}
	b.closers = append(b.closers, cg.Close)
	b.subjects = append(b.subjects, subject{name: "egressd", cg: cg, cpu: d.CPU, gateway: gateway})
	return nil
}

// client prepares a load generator for a subject. All use the same URL;
// /etc/hosts says where it leads. With egressd there is no such line: the
// name is resolved, as egressd demands.
func (b *bench) client(ctx context.Context, c subject, line ...string) *world.Cmd {
	line = pin("client", line...)
	if c.addr == "" {
		return b.w.Client(ctx, c.cg, line[0], line[1:]...)
	}
	hosts, err := b.write("hosts."+c.name, c.addr+" "+host+"\n")
	cmd := b.w.Node.Command(ctx, c.cg, line[0], line[1:]...).Bind(hosts, "/etc/hosts", filepath.Join(b.dir, "nsswitch.conf"), "/etc/nsswitch.conf")
	if err != nil {
		cmd.Err = err
	}
	return cmd
}

// writeCert writes a self-signed certificate; wrk does not verify.
func writeCert(dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "bench.crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644),
		os.WriteFile(filepath.Join(dir, "bench.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), 0o600),
	)
}
