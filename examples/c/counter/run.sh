#!/bin/sh
# Three members on this host count together. Usage: run.sh [CONFIG.toml [OPTION...]]
set -eu
folder=$(dirname "$0")
config=$folder/shm.toml
if [ $# -gt 0 ]; then
    config=$1
    shift
fi
members=
for member in 1 2 3; do
    "${COUNTER:-$folder/counter}" "$@" "$config" "$member" &
    members="$members $!"
done
failed=0
for member in $members; do
    wait "$member" || failed=1
done
exit $failed
