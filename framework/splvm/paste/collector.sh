#!/bin/sh
# Collects what is needed to explain a hang of ZFS, on a machine that has nothing but a shell.
#
# Run it as root while the machine hangs:    sh collector.sh
# It writes one file below /dev/shm, so that no pool is written to, and prints its name. Every read has a time-out.
# Asking the kernel for its lists of tasks takes a second or two and lets everything else stand as it is.
# `splvm explain FILE` reads it.

LC_ALL=C
export LC_ALL
dir=${SPLVM_COLLECT_DIR:-/dev/shm}
if [ ! -d "$dir" ] || [ ! -w "$dir" ]; then
    echo "collector: $dir is not there or cannot be written to; set SPLVM_COLLECT_DIR to a directory in memory" >&2
    exit 1
fi
umask 077
out=$(mktemp "$dir/splvm-hang.XXXXXX") || exit 1

if command -v timeout > /dev/null 2>&1; then
    limit() { timeout -k 1 "$@"; }
else
    # Without timeout(1): a watcher ends the command.
    limit() {
        seconds=$1
        shift
        "$@" &
        child=$!
        ( sleep "$seconds"; kill -9 "$child" ) > /dev/null 2>&1 &
        watcher=$!
        wait "$child" 2> /dev/null
        status=$?
        kill "$watcher" 2> /dev/null
        return "$status"
    }
fi

# take SECONDS NAME COMMAND...: what a command says, under its name.
take() {
    seconds=$1 name=$2
    shift 2
    echo "splvm: section $name"
    limit "$seconds" "$@" 2>&1 || echo "splvm: end $name status $?"
}

# show NAME FILE...: files that are there.
show() {
    name=$1
    shift
    for file in "$@"; do
        [ -e "$file" ] && take 5 "$name $file" cat "$file"
    done
}

stacks() {
    for task in /proc/[0-9]*/task/[0-9]*; do
        stat=$(limit 2 cat "$task/stat" 2> /dev/null) || continue
        rest=${stat##*) }
        state=${rest%% *}
        [ "$state" = D ] || continue
        pid=${task##*/}
        echo "splvm: stack $pid $state $(limit 2 cat "$task/comm" 2> /dev/null)"
        limit 2 cat "$task/stack" 2> /dev/null
    done
}

blocked_list() {
    limit 10 sh -c 'echo w > /proc/sysrq-trigger'
    sleep 1
}

{
    echo "splvm: collector 1"
    take 2 uname uname -a
    take 2 time date +%Y-%m-%dT%H:%M:%S%z
    show versions /proc/version /sys/module/zfs/version /sys/module/spl/version /etc/os-release
    take 5 uptime cat /proc/uptime /proc/loadavg
    echo "splvm: section stacks"
    stacks
    show spl /proc/spl/kmem/slab /proc/spl/taskq-all /proc/spl/taskq
    show zfs /proc/spl/kstat/zfs/arcstats /proc/spl/kstat/zfs/abdstats
    show txgs /proc/spl/kstat/zfs/*/txgs
    show state /proc/spl/kstat/zfs/*/state
    echo "splvm: section dbgmsg"
    limit 5 tail -n 2000 /proc/spl/kstat/zfs/dbgmsg 2> /dev/null
    show memory /proc/meminfo /proc/slabinfo /proc/buddyinfo /proc/vmstat /proc/pressure/memory /proc/pressure/io
    for module in zfs spl; do
        for file in /sys/module/$module/parameters/*; do
            [ -r "$file" ] && echo "$module.$(basename "$file")=$(limit 2 cat "$file" 2> /dev/null)"
        done
    done
    show kernel /proc/cmdline /proc/swaps /proc/mounts
    if [ -w /proc/sysrq-trigger ]; then
        echo "splvm: section tasks"
        blocked_list
        limit 10 sh -c 'echo t > /proc/sysrq-trigger'
        sleep 2
        blocked_list
    fi
    take 20 dmesg dmesg
    # These ask the pool, which may hang: last, and not for long.
    take 10 "zpool status" zpool status
    take 10 "zpool events" sh -c 'zpool events 2> /dev/null | tail -n 200'
    echo "splvm: end collector"
} > "$out" 2>&1

echo "$out"
