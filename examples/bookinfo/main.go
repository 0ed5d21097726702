// SPDX-License-Identifier: Apache-2.0

// Bookinfo serves what the policies beside it lead visitors to: four small services
// on ports 9080 (productpage), 9081 (details), 9082 (reviews) and 9083 (ratings) of
// 127.0.0.1. The first asks the others, and reviews asks ratings.
package main

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"time"
)

var client = &http.Client{Timeout: 5 * time.Second}

// ask is what another service says.
func ask(port int, path string) string {
	resp, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d%s", port, path))
	if err != nil {
		return "(" + err.Error() + ")"
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err != nil {
		return "(" + err.Error() + ")"
	}
	return string(body)
}

func text(f func(*http.Request) string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		_, _ = io.WriteString(w, f(r)+"\n") // a client that went away
	}
}

func main() {
	page := http.NewServeMux()
	page.Handle("/productpage", text(func(r *http.Request) string {
		return "The Comedy of Errors\n" + ask(9081, "/details/0") + ask(9082, "/reviews/0") +
			"asked by " + r.Header.Get("X-Forwarded-For") + " over " + r.Header.Get("X-Forwarded-Proto")
	}))
	page.Handle("/api/v1/products", text(func(*http.Request) string { return `[{"id": 0, "title": "The Comedy of Errors"}]` }))
	failed := make(chan error)
	for port, h := range map[int]http.Handler{
		9080: page,
		9081: text(func(*http.Request) string { return "details: paperback, 200 pages" }),
		9082: text(func(*http.Request) string {
			return "reviews: an extremely entertaining play\n" + ask(9083, "/ratings/0")
		}),
		9083: text(func(*http.Request) string { return "ratings: 5 of 5" }),
	} {
		s := &http.Server{Addr: fmt.Sprintf("127.0.0.1:%d", port), Handler: h, ReadHeaderTimeout: 5 * time.Second}
		go func() { failed <- s.ListenAndServe() }()
	}
	slog.Error("bookinfo ends", "error", <-failed)
	os.Exit(1)
}
