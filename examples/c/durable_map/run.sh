#!/bin/sh
# Three members on this host execute puts, are all killed with SIGKILL meanwhile, and are started again: every
# acknowledged put must be there, and the three maps must be equal. Usage: run.sh [CONFIG.toml [ROUNDS]]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
config=${1:-$here/shm.toml}
rounds=${2:-1}
program=${DURABLE_MAP:-$here/durable_map}
puts=500
case $config in /*) ;; *) config=$PWD/$config ;; esac
case $program in /*) ;; *) program=$PWD/$program ;; esac

# The directory also contains the logs.
work=$(mktemp -d)
members=
# Ends the remaining members, and removes all files.
trap 'kill -9 $members 2>/dev/null || true; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
# A write to a member that died ends this script.
trap 'exit 1' PIPE
cd "$work"
: > acknowledged

start() {
    members=
    for member in 1 2 3; do
        rm -f "in.$member"
        mkfifo "in.$member"
        : > "out.$member"
        "$program" "$config" "$member" < "in.$member" > "out.$member" &
        members="$members $!"
    done
    # The members run as long as their inputs are open.
    exec 4> in.1 5> in.2 6> in.3
}

close_inputs() {
    exec 4>&- 5>&- 6>&-
}

# Waits until each member has printed at least $2 lines that match $1.
hear() {
    for member in 1 2 3; do
        tries=0
        until [ "$(grep -c "$1" "out.$member")" -ge "$2" ]; do
            tries=$((tries + 1))
            if [ $tries -gt 3000 ]; then
                echo "run.sh: member $member did not print $2 lines like '$1' within 60 s" >&2
                exit 1
            fi
            sleep 0.02
        done
    done
}

# Compares the maps of the restarted members with each other and with the acknowledged puts.
compare() {
    echo dump >&4
    echo dump >&5
    echo dump >&6
    hear '^end ' 1
    cmp out.1 out.2 && cmp out.1 out.3 || exit 1
    sed -n '/^end /!p' out.1 | sort > there
    sort acknowledged > expected
    lost=$(comm -23 expected there | wc -l)
    if [ "$lost" -ne 0 ]; then
        echo "run.sh: $lost acknowledged puts are lost" >&2
        exit 1
    fi
}

# Prints the puts of a round and a member, each of a separate key, with a checkpoint among them.
commands() {
    awk -v round="$1" -v member="$2" -v puts=$puts 'BEGIN {
        for (i = 1; i <= puts; i++) {
            printf "put %d-%d-%d value %d\n", round, member, i, i
            if (i == 50) print "checkpoint"
        }
    }'
}

round=1
start
while [ "$round" -le "$rounds" ]; do
    commands "$round" 1 >&4 &
    commands "$round" 2 >&5 &
    commands "$round" 3 >&6 &
    hear '^ok ' 100
    kill -9 $members
    wait $members 2>/dev/null || true
    close_inputs
    # Lines that were printed before the kill count. The last line may be incomplete.
    before=$(wc -l < acknowledged)
    for member in 1 2 3; do
        sed -n '$!{/^ok /p;}' "out.$member" | awk '{ split($2, part, "-"); print $2 " value " part[3] }' >> acknowledged
    done
    said=$(($(wc -l < acknowledged) - before))
    start
    compare
    echo "round $round: $said acknowledged puts survived the kill of all members; the 3 maps of $(wc -l < there) keys are equal"
    round=$((round + 1))
done
close_inputs
for member in $members; do
    wait "$member"
done
members=
