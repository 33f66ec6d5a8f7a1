// SPDX-License-Identifier: GPL-2.0-or-later
// kvmalloc() may fall back to vmalloc, for which __GFP_COMP is no flag. SPL gives it where a thread that is not marked
// calls kmem_alloc(KM_SLEEP), and Linux 7 then splits what is one compound page.
@@
expression size, lflags;
@@
- kvmalloc(size, lflags)
+ kvmalloc(size, lflags & ~__GFP_COMP)
