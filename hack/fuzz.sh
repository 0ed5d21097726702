#!/bin/bash
# Runs every fuzz target of the module, one after the other, each for the time
# that is given (default 5s).
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-5s}

# "go test -list" prints the targets of a package and then a line for it.
targets=$(go test -list '^Fuzz' ./... | awk '/^Fuzz/ {names[n++]=$1; next} /^ok/ {for (i=0; i<n; i++) print $2, names[i]} {n=0}')
[ -n "$targets" ] || { echo "no fuzz targets found" >&2; exit 1; }
while read -r package name; do
	# Minimizing an interesting input may take a minute by default, which
	# counts as a hang where the time is short.
	echo "$package $name"
	go test -run '^$' -fuzz "^$name\$" -fuzztime "$time" -fuzzminimizetime 1x "$package" </dev/null
done <<<"$targets"
