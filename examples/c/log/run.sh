#!/bin/sh
# Appends the lines of a file in two runs of the program, and lists the log. Usage: run.sh [DIRECTORY [FILE]]
set -eu
folder=$(dirname "$0")
directory=${1:-$folder/lines.log}
file=${2:-$folder/../../data/readings.txt}
log=${LOG:-$folder/log}
head -n 3 "$file" | "$log" "$directory" append >&2
tail -n +4 "$file" | "$log" "$directory" append >&2
"$log" "$directory" list
