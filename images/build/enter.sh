#!/bin/sh
# enter.sh ROOT WORK OWNER HEADERS CCACHE COMMAND [ARGUMENT...]
# Runs COMMAND with ROOT as its root directory, WORK as its /build, and HEADERS, if that is not empty, as its /usr/src.
# With an empty ROOT it has the host's own programs and libraries, and nothing else of the host. With CCACHE, a
# directory, compilers are found through ccache, which keeps its files there. OWNER, if not empty, is whom WORK and
# CCACHE belong to meanwhile. To be called under `unshare --mount --pid --fork`: every mount here is private, so it goes
# away with this process, however that ends, and so does every process that COMMAND leaves. ROOT stays read-only. WORK may
# be empty.
set -eu
root=$1 work=$2 owner=$3 headers=$4 ccache=$5
shift 5
# Flags that a mount has from the host cannot be taken away in a user namespace, so those it may have are asked for.
flags=remount,bind,nosuid,nodev
if [ -n "$root" ]; then
	mount --bind "$root" "$root"
else
	# Any directory will do, as nobody else sees what is mounted on it.
	root=$(dirname "$0")
	mount -t tmpfs -o mode=755 tmpfs "$root"
	mkdir "$root/build" "$root/dev" "$root/etc" "$root/proc" "$root/tmp"
	for name in bin lib lib32 lib64 libx32 sbin usr etc/alternatives; do
		if [ -L "/$name" ]; then
			cp -P "/$name" "$root/$name"
		elif [ -d "/$name" ]; then
			mkdir "$root/$name"
			mount --rbind "/$name" "$root/$name"
			mount -o "$flags,ro" "$root/$name"
		fi
	done
	[ ! -e /etc/ld.so.cache ] || cp /etc/ld.so.cache "$root/etc"
fi
mount -o "$flags,ro" "$root"
if [ -n "$work" ]; then
	[ -z "$owner" ] || chown -R "$owner" "$work"
	mount --bind "$work" "$root/build"
	mount -o "$flags" "$root/build"
fi
if [ -n "$headers" ]; then
	mount --bind "$headers" "$root/usr/src"
	mount -o "$flags,ro" "$root/usr/src"
fi
# objtool looks things up in /proc (kernels from 7.0 on).
mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
mount -t tmpfs -o mode=755,nosuid,noexec tmpfs "$root/dev"
for name in null zero full random urandom; do
	: >"$root/dev/$name"
	mount --bind "/dev/$name" "$root/dev/$name"
done
ln -s /proc/self/fd "$root/dev/fd"
for name in 0stdin 1stdout 2stderr; do ln -s "/proc/self/fd/${name%%std*}" "$root/dev/${name#?}"; done
mkdir -m 1777 "$root/dev/shm"
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$root/tmp"
path=/usr/sbin:/usr/bin:/sbin:/bin
if [ -n "$ccache" ]; then
	[ -z "$owner" ] || [ -z "$(find "$ccache" ! -uid "${owner%:*}" -print -quit)" ] || chown -R "$owner" "$ccache"
	mkdir "$root/tmp/ccache"
	mount --bind "$ccache" "$root/tmp/ccache"
	mount -o "$flags" "$root/tmp/ccache"
	path=/usr/lib/ccache:$path
fi
# The host is left behind, and not only hidden: nothing in this namespace leads to it any more.
mkdir "$root/tmp/host"
cd "$root"
pivot_root . tmp/host
cd /
export PATH="$path"
if command -v umount >/dev/null; then umount -l /tmp/host; else busybox umount -l /tmp/host; fi
rmdir /tmp/host
# A tree takes some 20 MB of ccache for configure, and 50 MB for all modules. In depend mode a miss costs no run of the
# preprocessor, whose output is hardly ever the same where the sources are not: each test module of configure includes
# all that was found before it. A compiler is known by its content: in a build root that is made anew its times are others.
status=0
env -i PATH="$path" HOME=/build LC_ALL=C.UTF-8 \
	CCACHE_DIR=/tmp/ccache CCACHE_MAXSIZE=512M CCACHE_DEPEND=1 CCACHE_COMPILERCHECK=content \
	"$@" || status=$?
[ -z "$work" ] || [ -z "$owner" ] || chown -R 0:0 /build
exit "$status"
