#!/bin/bash
# Runs every fuzz target of the module, one after the other, each for the time
# that is given (default 5s).
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-5s}

# "go test -list" prints the targets of a package and then a line for it.
targets=$(go test -list '^Fuzz' ./... | awk '/^Fuzz/ {names[n++]=$1; next} /^ok/ {for (i=0; i<n; i++) print $2, names[i]} {n=0}')
[ -n "$targets" ] || { echo "no fuzz targets found" >&2; exit 1; }
log=$(mktemp)
trap 'rm -f "$log"' EXIT

fuzz() {
	go test -run '^$' -fuzz "^$2\$" -fuzztime "$time" -fuzzminimizetime 1x "$1" </dev/null 2>&1 | tee "$log"
}

while read -r package name; do
	# Minimizing an interesting input may take a minute by default, which
	# counts as a hang where the time is short.
	echo "$package $name"
	fuzz "$package" "$name" && continue
	# The go command now and then takes the end of its own time for a failure
	# of the target, without an input that fails: then it is asked once more.
	grep -q 'Failing input written' "$log" && exit 1
	grep -qx ' *context deadline exceeded' "$log" || exit 1
	echo "$package $name: the time was over without a failure; once more"
	fuzz "$package" "$name"
done <<<"$targets"
