// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	zone = "svc.cluster.local."
	// clusterTTL is that of the cluster's own names, in seconds.
	clusterTTL = 5
	account    = "/var/run/secrets/kubernetes.io/serviceaccount"
)

// clusterDNS serves the names of Services (SERVICE.NAMESPACE.svc.cluster.local,
// and for headless ones POD.SERVICE...) from what the API server says now, and
// asks the servers of /etc/resolv.conf for all other names. While the API
// server is away a name that was asked for before keeps its answer.
func clusterDNS(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return errUsage
	}
	upstream, err := dns.ClientConfigFromFile("/etc/resolv.conf")
	if err != nil {
		return err
	}
	if len(upstream.Servers) == 0 {
		return errors.New("/etc/resolv.conf names no server")
	}
	api, err := inCluster()
	if err != nil {
		return err
	}
	s := &dnsServer{api: api, upstream: net.JoinHostPort(upstream.Servers[0], upstream.Port), known: map[string][]record{}}
	ended := make(chan error, 2)
	for _, network := range []string{"udp", "tcp"} {
		server := &dns.Server{Addr: args[0], Net: network, Handler: s}
		go func() { ended <- server.ListenAndServe() }()
	}
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return nil
	}
}

type dnsServer struct {
	api      *apiClient
	upstream string

	mu    sync.Mutex
	known map[string][]record // answers by name; nil: there is no such name
}

// record is an address or another name.
type record struct {
	addr  netip.Addr
	alias string
}

func (s *dnsServer) ServeDNS(w dns.ResponseWriter, m *dns.Msg) {
	answer := s.answer(w, m)
	_ = w.WriteMsg(answer) // the client asks again
}

func (s *dnsServer) answer(w dns.ResponseWriter, m *dns.Msg) *dns.Msg {
	if len(m.Question) != 1 {
		return new(dns.Msg).SetRcode(m, dns.RcodeFormatError)
	}
	q := m.Question[0]
	name := strings.ToLower(q.Name)
	if !strings.HasSuffix(name, ".cluster.local.") {
		return s.forward(w, m)
	}
	records, err := s.find(name)
	if err != nil {
		fmt.Fprintf(os.Stderr, "tool: %s: %v\n", name, err)
		return new(dns.Msg).SetRcode(m, dns.RcodeServerFailure)
	}
	if records == nil {
		return new(dns.Msg).SetRcode(m, dns.RcodeNameError)
	}
	reply := new(dns.Msg).SetReply(m)
	reply.Authoritative = true
	for _, r := range records {
		if rr := r.as(q); rr != nil {
			reply.Answer = append(reply.Answer, rr)
		}
		if r.alias != "" { // stub resolvers ask for no more
			target := new(dns.Msg).SetQuestion(dns.Fqdn(r.alias), q.Qtype)
			reply.Answer = append(reply.Answer, s.forward(w, target).Answer...)
		}
	}
	return reply
}

// as is the record as an answer to a question; nil if it is none.
func (r record) as(q dns.Question) dns.RR {
	header := dns.RR_Header{Name: q.Name, Class: dns.ClassINET, Ttl: clusterTTL}
	switch {
	case r.alias != "":
		header.Rrtype = dns.TypeCNAME
		return &dns.CNAME{Hdr: header, Target: dns.Fqdn(r.alias)}
	case r.addr.Is4() && q.Qtype == dns.TypeA:
		header.Rrtype = dns.TypeA
		return &dns.A{Hdr: header, A: r.addr.AsSlice()}
	case r.addr.Is6() && q.Qtype == dns.TypeAAAA:
		header.Rrtype = dns.TypeAAAA
		return &dns.AAAA{Hdr: header, AAAA: r.addr.AsSlice()}
	}
	return nil
}

func (s *dnsServer) forward(w dns.ResponseWriter, m *dns.Msg) *dns.Msg {
	c := &dns.Client{Net: w.LocalAddr().Network(), Timeout: attemptWait}
	reply, _, err := c.Exchange(m, s.upstream)
	if err != nil {
		return new(dns.Msg).SetRcode(m, dns.RcodeServerFailure)
	}
	return reply
}

// find asks the API server, and remembers what it says.
func (s *dnsServer) find(name string) ([]record, error) {
	records, err := s.ask(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		if known, ok := s.known[name]; ok {
			return known, nil
		}
		return nil, err
	}
	s.known[name] = records
	return records, nil
}

func (s *dnsServer) ask(name string) ([]record, error) {
	labels := strings.Split(strings.TrimSuffix(strings.TrimSuffix(name, zone), "."), ".")
	if !strings.HasSuffix(name, "."+zone) || len(labels) < 2 || len(labels) > 3 {
		return nil, nil
	}
	pod := ""
	if len(labels) == 3 {
		pod, labels = labels[0], labels[1:]
	}
	var service struct {
		Spec struct {
			ClusterIPs   []string `json:"clusterIPs"`
			ExternalName string   `json:"externalName"`
		} `json:"spec"`
	}
	found, err := s.api.get("/api/v1/namespaces/"+labels[1]+"/services/"+labels[0], &service)
	if err != nil || !found {
		return nil, err
	}
	switch ips := service.Spec.ClusterIPs; {
	case service.Spec.ExternalName != "" && pod == "":
		return []record{{alias: service.Spec.ExternalName}}, nil
	case len(ips) > 0 && ips[0] == "None":
		return s.headless(labels[1], labels[0], pod)
	case pod != "":
		return nil, nil
	default:
		return addresses(ips), nil
	}
}

// headless are the addresses of a Service's endpoints, or of the one with a hostname.
func (s *dnsServer) headless(namespace, service, pod string) ([]record, error) {
	var slices struct {
		Items []struct {
			Endpoints []struct {
				Addresses []string `json:"addresses"`
				Hostname  string   `json:"hostname"`
			} `json:"endpoints"`
		} `json:"items"`
	}
	_, err := s.api.get("/apis/discovery.k8s.io/v1/namespaces/"+namespace+"/endpointslices?labelSelector=kubernetes.io/service-name%3D"+service, &slices)
	if err != nil {
		return nil, err
	}
	out := []record{}
	for _, slice := range slices.Items {
		for _, e := range slice.Endpoints {
			if pod == "" || e.Hostname == pod {
				out = append(out, addresses(e.Addresses)...)
			}
		}
	}
	if pod != "" && len(out) == 0 {
		return nil, nil
	}
	return out, nil
}

func addresses(texts []string) []record {
	out := []record{}
	for _, text := range texts {
		if a, err := netip.ParseAddr(text); err == nil {
			out = append(out, record{addr: a})
		}
	}
	return out
}

// apiClient asks the API server with the pod's service account.
type apiClient struct {
	http  *http.Client
	url   string
	token string
}

func inCluster() (*apiClient, error) {
	token, err := os.ReadFile(filepath.Join(account, "token"))
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(filepath.Join(account, "ca.crt"))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, errors.New("the service account has no certificate of the API server")
	}
	return &apiClient{
		http:  &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}},
		url:   "https://" + net.JoinHostPort(os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")),
		token: string(token),
	}, nil
}

// get reads an object; not found is no error.
func (c *apiClient) get(path string, into any) (found bool, err error) {
	r, err := http.NewRequest(http.MethodGet, c.url+path, nil)
	if err != nil {
		return false, err
	}
	r.Header.Set("Authorization", "Bearer "+c.token)
	res, err := c.http.Do(r)
	if err != nil {
		return false, err
	}
	defer res.Body.Close()
	switch res.StatusCode {
	case http.StatusOK:
		return true, json.NewDecoder(res.Body).Decode(into)
	case http.StatusNotFound:
		return false, nil
	}
	return false, fmt.Errorf("%s: %s", path, res.Status)
}
