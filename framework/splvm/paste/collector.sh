#!/bin/sh
# Collects what is needed to explain a hang of ZFS, on a machine that has nothing but a shell.
#
# Run it as root while the machine hangs:    sh collector.sh
# It writes one file in memory (below /dev/shm or /run), never onto a pool, and prints its name. `splvm explain FILE`
# reads it. Whatever does not answer in time is left behind: a read that the kernel does not let go of cannot be
# killed, and nothing waits for it. Asking the kernel for its lists of tasks takes a second or two and lets everything
# else stand as it is.
#
# SPLVM_COLLECT_DIR names another directory, SPLVM_COLLECT_LIMIT the most seconds that one step may take.

LC_ALL=C
export LC_ALL
cd / || exit 1
umask 077
dir=$SPLVM_COLLECT_DIR
for place in /dev/shm /run; do
    [ -n "$dir" ] || { [ -d "$place" ] && [ -w "$place" ] && dir=$place; }
done
if [ ! -d "$dir" ] || [ ! -w "$dir" ]; then
    echo "collector: ${dir:-/dev/shm} is not there or cannot be written to: name a directory in memory by SPLVM_COLLECT_DIR" >&2
    exit 1
fi
out=$(mktemp "$dir/splvm-hang.XXXXXX") || exit 1
parts=$(mktemp -d "$dir/splvm-parts.XXXXXX") || exit 1
trap 'rm -rf "$parts"' EXIT
count=0
tick=0.1
sleep $tick 2> /dev/null || tick=1

# Whether a child of this shell is gone, or waits for nothing but to be asked how it ended.
gone() {
    stat=
    { read -r stat < "/proc/$1/stat"; } 2> /dev/null || return 0
    case $stat in
        *") Z "* | *") X "*) return 0 ;;
    esac
    return 1
}

# take SECONDS NAME COMMAND...: what a command says, under its name, if it says it in time.
take() {
    seconds=$1
    name=$2
    shift 2
    [ "${SPLVM_COLLECT_LIMIT:-$seconds}" -lt "$seconds" ] && seconds=$SPLVM_COLLECT_LIMIT
    count=$((count + 1))
    "$@" > "$parts/$count" 2>&1 < /dev/null &
    child=$!
    ticks=$((seconds * 10))
    [ "$tick" = 1 ] && ticks=$seconds
    until gone "$child" || [ "$ticks" -le 0 ]; do
        ticks=$((ticks - 1))
        sleep "$tick"
    done
    status="after $seconds s"
    if gone "$child"; then
        wait "$child" 2> /dev/null
        status=$?
    else
        kill -9 "$child" 2> /dev/null
    fi
    {
        echo "splvm: section $name"
        cat "$parts/$count"
        [ "$status" = 0 ] || printf '\nsplvm: end %s status %s\n' "$name" "$status"
    } >> "$out"
}

# show SECONDS NAME FILE...: files that are there.
show() {
    limit=$1
    section=$2
    shift 2
    for file in "$@"; do
        [ -e "$file" ] && take "$limit" "$section $file" cat "$file"
    done
}

# The stacks of the threads that are blocked. Nothing but the stack itself is read by another program.
stacks() {
    for task in /proc/[0-9]*/task/[0-9]*; do
        { read -r stat < "$task/stat"; } 2> /dev/null || continue
        rest=${stat##*) }
        [ "${rest%% *}" = D ] || continue
        comm=
        { read -r comm < "$task/comm"; } 2> /dev/null
        echo "splvm: stack ${task##*/} D $comm"
        cat "$task/stack" 2> /dev/null
    done
}

parameters() {
    for module in zfs spl; do
        for file in /sys/module/$module/parameters/*; do
            value=
            { read -r value < "$file"; } 2> /dev/null && echo "$module.${file##*/}=$value"
        done
    done
    return 0
}

ask() {
    echo "$1" > /proc/sysrq-trigger
    sleep 1
}

echo "splvm: collector 2" > "$out"
take 2 uname uname -a
take 2 time date +%Y-%m-%dT%H:%M:%S%z
show 2 versions /proc/version /sys/module/zfs/version /sys/module/spl/version /etc/os-release
show 2 uptime /proc/uptime /proc/loadavg
take 30 stacks stacks
show 5 spl /proc/spl/kmem/slab /proc/spl/taskq-all /proc/spl/taskq
show 5 zfs /proc/spl/kstat/zfs/arcstats /proc/spl/kstat/zfs/abdstats
show 5 txgs /proc/spl/kstat/zfs/*/txgs
show 5 state /proc/spl/kstat/zfs/*/state
[ -e /proc/spl/kstat/zfs/dbgmsg ] && take 5 dbgmsg tail -n 2000 /proc/spl/kstat/zfs/dbgmsg
show 5 memory /proc/meminfo /proc/slabinfo /proc/buddyinfo /proc/vmstat /proc/pressure/memory /proc/pressure/io
take 10 parameters parameters
show 5 kernel /proc/cmdline /proc/swaps /proc/mounts
if [ -w /proc/sysrq-trigger ]; then
    take 10 "tasks w" ask w
    take 20 "tasks t" ask t
    take 10 "tasks w" ask w
fi
take 20 dmesg dmesg
# These ask the pool, which may hang: last, and not for long.
command -v zpool > /dev/null 2>&1 && take 10 "zpool status" zpool status
command -v zpool > /dev/null 2>&1 && take 10 "zpool events" zpool events
echo "splvm: end collector" >> "$out"
echo "$out"
