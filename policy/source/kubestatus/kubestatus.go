// SPDX-License-Identifier: Apache-2.0

// Package kubestatus tells the people of a cluster what egressd does: Events on
// the pods whose traffic is denied, conditions on the objects that are refused or
// warned of, and the statuses that the Gateway API asks of a controller.
//
// Nothing here is on the way of traffic. When the API server is away, what there
// is to say is counted and left, or said later.
package kubestatus

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	coordination "k8s.io/client-go/kubernetes/typed/coordination/v1"
	events "k8s.io/client-go/kubernetes/typed/events/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy/istio"
)

const (
	// Manager is the field manager of everything that is written to a status.
	Manager = "egressd"
	// ControllerName is the controller of GatewayClasses that egressd answers for,
	// and who speaks in Events and in the statuses of routes.
	ControllerName = "egressd.dev/gateway"
	// reporter is who reports an Event.
	reporter = "egressd.dev/egressd"
	// callTimeout bounds each call of the API server.
	callTimeout = 10 * time.Second
)

// Pods finds pods of this node.
type Pods interface {
	// UID is the unique name of a pod that is here now.
	UID(namespace, name string) (types.UID, bool)
}

// Lookups are what the rest of the daemon knows.
type Lookups struct {
	Pods Pods
	// Findings returns what the readers of the policy say now. Those of objects
	// of the API server have the file "kubernetes:KIND/NAMESPACE/NAME".
	Findings func() []istio.Finding
}

// Options are what a Publisher goes by.
type Options struct {
	Config *rest.Config
	// Node is the name of the Node, Namespace that of egressd's own namespace,
	// which has the Lease of the one that writes statuses.
	Node, Namespace string
	Lookups         Lookups
	Log             *slog.Logger
	// Election are the times of the election of the writer; the zero value is for
	// DefaultElection.
	Election Election
}

// Publisher tells what egressd does. Make one with New, and run it with Run.
type Publisher struct {
	events   *Events
	election *election
	statuses *statuses
	// close closes the connections that nobody uses.
	close func()
}

// New makes a Publisher. It asks the API server nothing yet.
func New(o Options) (*Publisher, error) {
	// A client of its own: what it says must not wait for, nor hold up, the watches
	// that the policy comes by.
	config := rest.CopyConfig(o.Config)
	config.QPS, config.Burst = 20, 40
	config.Timeout = 0 // watches go on; each other call has its own
	http, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	said, err := events.NewForConfigAndClient(config, http)
	if err != nil {
		return nil, err
	}
	leases, err := coordination.NewForConfigAndClient(config, http)
	if err != nil {
		return nil, err
	}
	objects, err := dynamic.NewForConfigAndClient(config, http)
	if err != nil {
		return nil, err
	}
	names, err := metadata.NewForConfigAndClient(metadata.ConfigFor(config), http)
	if err != nil {
		return nil, err
	}
	p := &Publisher{close: http.CloseIdleConnections, events: NewEvents(EventsOptions{Client: said, Node: o.Node, Pods: o.Lookups.Pods, Log: o.Log})}
	p.statuses = newStatuses(statusOptions{
		objects: objects, namespace: o.Namespace, names: names, findings: o.Lookups.Findings,
		refused: p.events.Refused, log: o.Log,
	})
	p.election = newElection(leases, o.Namespace, o.Node, o.Election, o.Log)
	return p, nil
}

// Record implements flow.Sink. It never waits.
func (p *Publisher) Record(e *flow.Event) { p.events.Record(e) }

// Run tells what there is to tell until ctx is done. alone says that no other daemon of
// this node lives, so that what one has of the election is nobody's.
func (p *Publisher) Run(ctx context.Context, alone bool) {
	if p == nil {
		return
	}
	p.election.alone = alone
	defer p.close()
	var parts sync.WaitGroup
	parts.Go(func() { p.events.Run(ctx) })
	parts.Go(func() { p.election.run(ctx, p.statuses.run) })
	parts.Wait()
}

// Stats are what was told and what was not.
type Stats struct {
	Events   EventStats  `json:"events"`
	Statuses StatusStats `json:"statuses"`
	// Writer says that this daemon is the one that writes statuses.
	Writer bool `json:"writer"`
}

// Stats says what was told and what was not.
func (p *Publisher) Stats() Stats {
	return Stats{Events: p.events.Stats(), Statuses: p.statuses.stats(), Writer: p.election.leads.Load()}
}

// Report is Stats; nil: there is no Publisher.
func (p *Publisher) Report() *Stats {
	if p == nil {
		return nil
	}
	s := p.Stats()
	return &s
}
