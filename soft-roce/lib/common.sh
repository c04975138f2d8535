# shellcheck shell=bash
# Functions and variables that the scripts share: messages, errors, help, and the path of the cache. Source this file.

name=${0##*/}
note() { printf '%s: %s\n' "$name" "$*" >&2; }
die() {
    note "$*"
    exit "${DIE_STATUS:-1}"
}

# Prints the comment at the head of the script, which is the text of `--help`, and exits.
help() {
    sed -n '2,/^[^#]/{/^#/!q;s/^# \{0,1\}//;p}' "$0"
    exit 0
}

is_number() { [[ $1 =~ ^[0-9]+$ ]] && [ "$1" -ge "$2" ] && [ "$1" -le "$3" ]; }

# shellcheck disable=SC2034 # used by the scripts that source this file
cache=${GALERNA_SOFT_ROCE_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/galerna-soft-roce}

# Prints the path of the initramfs. Its name depends on the kernel in the cache and on the content of lib/initramfs-init,
# because different checkouts share one cache.
initramfs() { echo "$cache/initramfs-$(cat "$cache/kernel/version" "${here:?}/lib/initramfs-init" 2> /dev/null | sha256sum | cut -c 1-12)"; }
