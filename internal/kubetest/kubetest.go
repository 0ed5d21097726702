// SPDX-License-Identifier: Apache-2.0

// Package kubetest runs a real Kubernetes API server for tests: etcd and
// kube-apiserver as processes of their own, on loopback, with ports and a
// directory of their own. It is up in about three seconds, with RBAC and the
// usual admission, and nothing but the API: no controllers, no scheduler and no
// kubelet. What these would do (a namespace's service account, a pod's node,
// phase and addresses) a test does itself; see Namespace and Pod.
//
// The programs are built from the Go module proxy the first time that they are
// needed (hack/kube/build, minutes) and kept in the user's cache directory.
package kubetest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/egressd/egressd/internal/cgroup"
)

const (
	readyWait  = 60 * time.Second // a busy machine; 3 s on a quiet one
	readyEvery = 20 * time.Millisecond
	// portTries bounds how often a start is tried with other ports, when
	// somebody took one of them meanwhile.
	portTries = 3

	loopback = "127.0.0.1"
	// ServiceCIDR is where the addresses of Services are from.
	ServiceCIDR = "10.96.0.0/16"
)

// Options say what is not usual of a cluster. The zero value will do.
type Options struct {
	// Users may log in beside Admin, with what RBAC gives to them.
	Users []User
	// Flags are more flags of kube-apiserver; a later one wins.
	Flags []string
}

// Cluster is a Kubernetes API server and the etcd below it.
type Cluster struct {
	programs string // the directory that they are in
	dir      string
	flags    []string
	users    []User
	etcdPort int
	peerPort int
	apiPort  int
	ca       []byte // the server's certificate, PEM

	etcd *process
	api  *process
}

// New starts a cluster and waits until it is ready. Close ends it; a process
// that ends without that takes it along.
func New(o Options) (c *Cluster, err error) {
	programs, err := Programs("api")
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", fmt.Sprintf("%s%d-kube-*", cgroup.Prefix, os.Getpid()))
	if err != nil {
		return nil, err
	}
	c = &Cluster{programs: programs, dir: dir, flags: o.Flags, users: append(usual(), o.Users...)}
	if err := c.writeCredentials(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	for try := 1; ; try++ {
		if err = c.startOnce(); err == nil {
			return c, nil
		}
		c.stop()
		if try == portTries {
			return nil, errors.Join(err, c.Close())
		}
	}
}

// startOnce starts all with ports that are free now.
func (c *Cluster) startOnce() error {
	ports, err := freePorts(3)
	if err != nil {
		return err
	}
	c.etcdPort, c.peerPort, c.apiPort = ports[0], ports[1], ports[2]
	if err := os.RemoveAll(c.file("etcd")); err != nil {
		return err
	}
	if err := c.startEtcd(); err != nil {
		return err
	}
	if err := c.StartAPI(); err != nil {
		return err
	}
	return c.writeKubeconfigs()
}

func (c *Cluster) startEtcd() (err error) {
	client, peer := "http://"+addr(c.etcdPort), "http://"+addr(c.peerPort)
	c.etcd, err = start(c.file("etcd.log"), filepath.Join(c.programs, "etcd"),
		"--name", "default", "--data-dir", c.file("etcd"),
		"--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer,
		// The data is gone with the test.
		"--unsafe-no-fsync", "--log-level", "warn")
	return err
}

// StartAPI starts the API server, which must not run, and waits until it is
// ready. What it stored before is there, and its address and certificate are the same.
func (c *Cluster) StartAPI() (err error) {
	if c.api != nil && !c.api.ended() {
		return errors.New("the API server runs already")
	}
	c.api, err = start(c.file("kube-apiserver.log"), filepath.Join(c.programs, "kube-apiserver"), append([]string{
		"--etcd-servers", "http://" + addr(c.etcdPort),
		"--bind-address", loopback, "--advertise-address", loopback, "--secure-port", strconv.Itoa(c.apiPort),
		// Without --tls-cert-file it makes a certificate, which is its own CA.
		"--cert-dir", c.file("certificates"),
		// The usual one refuses to publish a loopback address.
		"--endpoint-reconciler-type", "none",
		"--service-cluster-ip-range", ServiceCIDR,
		"--authorization-mode", "Node,RBAC", "--token-auth-file", c.file("tokens.csv"),
		"--service-account-issuer", "https://kubernetes.default.svc",
		"--service-account-key-file", c.file("sa.key"), "--service-account-signing-key-file", c.file("sa.key"),
		"--allow-privileged",
		// It waits for watches to end otherwise.
		"--shutdown-delay-duration", "0s",
	}, c.flags...)...)
	if err != nil {
		return err
	}
	return c.waitReady()
}

// KillAPI ends the API server at once, as a crash does: its connections are
// reset and new ones refused until StartAPI.
func (c *Cluster) KillAPI() { c.api.kill() }

// PauseAPI stops the API server from doing anything, as an overloaded machine
// or a lost network does: what is sent to it is not answered. The returned
// function lets it go on.
func (c *Cluster) PauseAPI() (resume func(), err error) { return c.api.pause() }

// Close ends all of it and removes its directory. Closing twice is fine.
func (c *Cluster) Close() error {
	c.stop()
	return os.RemoveAll(c.dir)
}

func (c *Cluster) stop() {
	c.api.kill()
	c.etcd.kill()
}

// URL is the API server's.
func (c *Cluster) URL() string { return "https://" + addr(c.apiPort) }

func (c *Cluster) file(name string) string { return filepath.Join(c.dir, name) }

// waitReady waits until the API server says that it is ready. The error has
// the end of the log of what failed.
func (c *Cluster) waitReady() error {
	last := errors.New("it made no certificate")
	for deadline := time.Now().Add(readyWait); time.Now().Before(deadline); time.Sleep(readyEvery) {
		for _, p := range []*process{c.etcd, c.api} {
			if p.ended() {
				return fmt.Errorf("%s ended: %w\n%s", p.name, p.err, p.tail())
			}
		}
		ca, err := os.ReadFile(c.file("certificates/apiserver.crt"))
		if err != nil || len(ca) == 0 {
			continue
		}
		c.ca = ca
		if last = c.ready(); last == nil {
			return nil
		}
	}
	return fmt.Errorf("the API server is not ready after %s: %w\n%s", readyWait, last, c.api.tail())
}

func (c *Cluster) ready() error {
	body, err := c.Get("/readyz")
	if err != nil {
		return err
	}
	if body != "ok" {
		return fmt.Errorf("/readyz says %q", body)
	}
	return nil
}

// Get asks the API server as Admin, for what is no object: /readyz, /metrics.
func (c *Cluster) Get(path string) (string, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(c.ca) {
		return "", errors.New("the API server's certificate is not whole yet")
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.URL()+path, nil)
	if err != nil {
		return "", err
	}
	r.Header.Set("Authorization", "Bearer "+c.token(Admin))
	res, err := transport.RoundTrip(r)
	if err != nil {
		return "", err
	}
	defer func() { _ = res.Body.Close() }() // only read from
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", path, res.Status, body)
	}
	return string(body), err
}
