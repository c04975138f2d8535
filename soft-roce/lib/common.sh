# shellcheck shell=bash
# What the scripts here share: how they speak, and where the cache is. To be sourced.

name=${0##*/}
note() { printf '%s: %s\n' "$name" "$*" >&2; }
die() {
    note "$*"
    exit "${DIE_STATUS:-1}"
}

# The text of `--help` is the comment at the head of the script.
help() {
    sed -n '2,/^[^#]/{/^#/!q;s/^# \{0,1\}//;p}' "$0"
    exit 0
}

is_number() { [[ $1 =~ ^[0-9]+$ ]] && [ "$1" -ge "$2" ] && [ "$1" -le "$3" ]; }

# shellcheck disable=SC2034 # used by those who source this
cache=${GALERNA_SOFT_ROCE_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/galerna-soft-roce}

# The initramfs for the kernel in the cache and this version of its first program: checkouts that differ share a cache.
initramfs() { echo "$cache/initramfs-$(cat "$cache/kernel/version" "${here:?}/lib/initramfs-init" 2> /dev/null | sha256sum | cut -c 1-12)"; }
