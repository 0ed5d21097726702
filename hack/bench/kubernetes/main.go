// SPDX-License-Identifier: Apache-2.0

// Command kubernetes measures what egressd costs in a big Kubernetes cluster, with a
// real API server and etcd on loopback and without any node but simulated ones:
//
//	bench-kubernetes daemon    one node: "egressd run --kubernetes" with many objects; needs root
//	bench-kubernetes restart   many nodes that start at once, egressd's and plain informers
//	bench-kubernetes cost      what a change costs the API server, with more and more nodes
//
// See docs/KUBERNETES.md and docs/PERFORMANCE.md for what it found.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// options are the command line.
type options struct {
	size    size
	nodes   []int
	twin    bool
	crash   bool
	spread  time.Duration
	changes int
	starts  int
	egressd string
	profile string
}

// verbs are what this program does.
var verbs = map[string]func(context.Context, options) error{
	"daemon":  measureDaemon,
	"restart": measureRestart,
	"cost":    measureCost,
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == simulateVerb {
		exit(simulate(os.Args[2:]))
	}
	if len(os.Args) > 1 && os.Args[1] == dialVerb {
		exit(dial(os.Args[2:]))
	}
	o, verb := options{}, ""
	if len(os.Args) > 1 {
		verb = os.Args[1]
	}
	fs := flag.NewFlagSet("kubernetes daemon|restart|cost", flag.ExitOnError)
	fs.IntVar(&o.size.entries, "entries", 10000, "ServiceEntries")
	fs.IntVar(&o.size.services, "services", 2000, "Services, each with an EndpointSlice")
	fs.IntVar(&o.size.namespaces, "namespaces", 200, "namespaces")
	fs.IntVar(&o.size.pods, "pods", 10000, "pods of the cluster")
	fs.IntVar(&o.size.own, "own", 500, "pods of them on the node that is measured")
	fs.IntVar(&o.size.home, "home", 20, "namespaces that these are in")
	fs.IntVar(&o.changes, "changes", 100, "changes of each kind")
	nodes := fs.String("nodes", "50,200,1000", "simulated nodes: how many, one after the other")
	fs.BoolVar(&o.twin, "twin", true, "measure plain informers, too")
	fs.BoolVar(&o.crash, "crash", true, "kill the API server under the nodes, too")
	fs.DurationVar(&o.spread, "spread", -1, "over how long the nodes' first requests are spread; that of egressd run if negative")
	fs.IntVar(&o.starts, "starts", 1, "starts of the daemon")
	fs.StringVar(&o.egressd, "egressd", "bin/egressd", "the egressd binary; several, with commas between them, take turns in the starts")
	fs.StringVar(&o.profile, "profile", "", "a file for a profile of the heap of the simulated nodes")
	if verbs[verb] == nil {
		fs.Usage()
		os.Exit(2)
	}
	_ = fs.Parse(os.Args[2:]) // it exits
	for s := range strings.SplitSeq(*nodes, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			exit(fmt.Errorf("-nodes: %q is no number of nodes", s))
		}
		o.nodes = append(o.nodes, n)
	}
	if o.size.home < 1 || o.size.home > o.size.namespaces {
		exit(errors.New("-home: at least one namespace, and no more than -namespaces"))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	load, _ := os.ReadFile("/proc/loadavg") // it is a remark
	fmt.Printf("load average at the start: %s", load)
	exit(verbs[verb](ctx, o))
}

func exit(err error) {
	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "kubernetes:", err)
		os.Exit(1)
	}
	os.Exit(0)
}
