#!/bin/sh
# enter.sh ROOT WORK UID:GID HEADERS CCACHE COMMAND [ARGUMENT...]
# Runs COMMAND in the build root ROOT with WORK as its /build, and HEADERS, if that is not empty, as its /usr/src. With
# CCACHE, a directory, compilers are found through ccache, which keeps its files there. To be called under `unshare
# --mount --pid --fork`: every mount here is private, so it goes away with this process, however that ends. ROOT itself
# stays read-only.
set -eu
root=$1 work=$2 owner=$3 headers=$4 ccache=$5
shift 5
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
path=/usr/sbin:/usr/bin:/sbin:/bin
if [ -n "$ccache" ]; then
	mkdir "$root/tmp/ccache"
	mount --bind "$ccache" "$root/tmp/ccache"
	path=/usr/lib/ccache:$path
fi
# A tree takes some 20 MB of ccache for configure, and 50 MB for all modules. In depend mode a miss costs no run of the
# preprocessor, whose output is hardly ever the same where the sources are not: each test module of configure includes
# all that was found before it. A compiler is known by its content: in a build root that is made anew its times are others.
exec chroot --userspec="$owner" "$root" /usr/bin/env -i \
	PATH="$path" HOME=/build LC_ALL=C.UTF-8 \
	CCACHE_DIR=/tmp/ccache CCACHE_MAXSIZE=512M CCACHE_DEPEND=1 CCACHE_COMPILERCHECK=content \
	sh -c 'cd /build && exec "$@"' sh "$@"
