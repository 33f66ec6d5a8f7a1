#!/bin/sh
# enter.sh ROOT WORK UID:GID HEADERS COMMAND [ARGUMENT...]
# Runs COMMAND in the build root ROOT with WORK as its /build, and HEADERS, if that is not empty, as its /usr/src. To be called under `unshare --mount --pid --fork`: every
# mount here is private, so it goes away with this process, however that ends. ROOT itself stays read-only.
set -eu
root=$1 work=$2 owner=$3 headers=$4
shift 4
mount --bind "$root" "$root"
mount -o remount,ro,bind "$root"
mount --bind "$work" "$root/build"
if [ -n "$headers" ]; then
	mount --bind "$headers" "$root/usr/src"
	mount -o remount,ro,bind "$root/usr/src"
fi
# objtool looks things up in /proc (kernels from 7.0 on).
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/tmp"
exec chroot --userspec="$owner" "$root" /usr/bin/env -i \
	PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/build LC_ALL=C.UTF-8 \
	sh -c 'cd /build && exec "$@"' sh "$@"
