#!/bin/sh
# Three members on this host replicate the lines of a file. Prints the digest of each member's history.
# Usage: run.sh [CONFIG.toml [FILE]]
set -eu
folder=$(dirname "$0")
config=${1:-$folder/shm.toml}
file=${2:-$folder/../../data/readings.txt}
histories=$(mktemp -d)
trap 'rm -r "$histories"' EXIT
members=
for member in 1 2 3; do
    "${REPLICATE:-$folder/replicate}" "$config" "$member" "$file" > "$histories/$member" &
    members="$members $!"
done
failed=0
for member in $members; do
    wait "$member" || failed=1
done
for member in 1 2 3; do
    sha256sum < "$histories/$member"
done
exit $failed
