/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What OpenZFS's `configure --enable-debug` changes in the code of its modules: ASSERT() and its kin are compiled in
 * (config/zfs-build.m4, ZFS_AC_DEBUG_ENABLE()). It goes to the end of zfs_config.h, which every file includes first.
 * -Werror, which configure adds for the sake of its developers, changes no code and is left out.
 */
#undef NDEBUG
#ifndef DEBUG
#define DEBUG
#endif
#ifndef ZFS_DEBUG
#define ZFS_DEBUG 1
#endif
