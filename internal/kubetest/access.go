// SPDX-License-Identifier: Apache-2.0

package kubetest

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// User is who logs in to the API server.
type User struct {
	Name   string
	Groups []string
}

// Users that every cluster knows.
const (
	// Admin may do everything.
	Admin = "admin"
	// Nobody may do nothing but what every user may.
	Nobody = "nobody"
)

// usual are the users of every cluster.
func usual() []User {
	return []User{
		{Name: Admin, Groups: []string{"system:masters"}},
		{Name: Nobody},
		// A kubelet, as the node authorizer knows it.
		{Name: "system:node:node1", Groups: []string{"system:nodes"}},
	}
}

// token is a user's password, which nobody needs to keep: it is of a server on
// loopback that ends with the test.
func (c *Cluster) token(user string) string { return "token-of-" + user }

func (c *Cluster) writeCredentials() error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	block := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	if err := os.WriteFile(c.file("sa.key"), block, 0o600); err != nil {
		return err
	}
	var tokens strings.Builder
	for i, u := range c.users {
		fmt.Fprintf(&tokens, "%s,%s,%d,%q\n", c.token(u.Name), u.Name, i, strings.Join(u.Groups, ","))
	}
	return os.WriteFile(c.file("tokens.csv"), []byte(tokens.String()), 0o600)
}

// Config is how Admin reaches the API server, with no limit on requests.
func (c *Cluster) Config() *rest.Config {
	config := c.ConfigOf(Admin)
	config.QPS = -1
	return config
}

// ConfigOf is how a user of the Options, or one of the usual, reaches the API
// server.
func (c *Cluster) ConfigOf(user string) *rest.Config { return c.configWith(c.token(user)) }

func (c *Cluster) configWith(token string) *rest.Config {
	return &rest.Config{Host: c.URL(), BearerToken: token, TLSClientConfig: rest.TLSClientConfig{CAData: bytes.Clone(c.ca)}}
}

// Kubeconfig is the path of a file by which a user reaches the API server.
func (c *Cluster) Kubeconfig(user string) string {
	return c.file("kubeconfig-" + strings.ReplaceAll(user, ":", "-"))
}

func (c *Cluster) writeKubeconfigs() error {
	for _, u := range c.users {
		if err := c.writeKubeconfig(u.Name, c.token(u.Name)); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) writeKubeconfig(user, token string) error {
	config := clientcmdapi.NewConfig()
	config.Clusters["test"] = &clientcmdapi.Cluster{Server: c.URL(), CertificateAuthorityData: c.ca}
	config.AuthInfos[user] = &clientcmdapi.AuthInfo{Token: token}
	config.Contexts["test"] = &clientcmdapi.Context{Cluster: "test", AuthInfo: user}
	config.CurrentContext = "test"
	return clientcmd.WriteToFile(*config, c.Kubeconfig(user))
}

// ServiceAccount makes a service account, unless it is there, and returns how
// it reaches the API server, and the path of a kubeconfig for it. What it may
// do, RBAC says.
func (c *Cluster) ServiceAccount(t testing.TB, namespace, name string) (config *rest.Config, kubeconfig string) {
	t.Helper()
	c.ensureServiceAccount(t, namespace, name)
	token := strings.TrimSpace(c.Kubectl(t, "create", "token", "-n", namespace, name))
	user := "system:serviceaccount:" + namespace + ":" + name
	if err := c.writeKubeconfig(user, token); err != nil {
		t.Fatal(err)
	}
	return c.configWith(token), c.Kubeconfig(user)
}

// Kubectl runs kubectl as Admin and returns what it prints on its standard
// output. The test fails when it does.
func (c *Cluster) Kubectl(t testing.TB, args ...string) string {
	t.Helper()
	out, err := c.TryKubectl("", args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TryKubectl runs kubectl as Admin with input, and returns what it prints on
// its standard output. The error has what it prints on its standard error.
func (c *Cluster) TryKubectl(input string, args ...string) (string, error) {
	cmd := exec.Command(filepath.Join(c.programs, "kubectl"), args...)
	// Its cache of what the server serves is in the home directory.
	cmd.Env = append(os.Environ(), "HOME="+c.dir, "KUBECONFIG="+c.Kubeconfig(Admin))
	cmd.Stdin = strings.NewReader(input)
	var out, problem bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problem
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(problem.String()))
	}
	return out.String(), nil
}
