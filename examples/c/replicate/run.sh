#!/bin/sh
# Three members on this host replicate the lines of a file. Usage: run.sh [CONFIG.toml [FILE]]
set -eu
folder=$(dirname "$0")
config=${1:-$folder/shm.toml}
file=${2:-$folder/../../data/readings.txt}
members=
for member in 1 2 3; do
    "${REPLICATE:-$folder/replicate}" "$config" "$member" "$file" &
    members="$members $!"
done
failed=0
for member in $members; do
    wait "$member" || failed=1
done
exit $failed
