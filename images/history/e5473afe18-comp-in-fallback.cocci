// SPDX-License-Identifier: GPL-2.0-or-later
// Where kmem_alloc() falls back to vmalloc it passes __GFP_COMP on, as before e5473afe18 (2026).
//
// Since Linux 6.19 the kernel warns of the flag ("Unexpected gfp").
@@
identifier mask;
@@
spl_kvmalloc(...)
{
	<...
-	mask &= ~__GFP_COMP;
	...>
}
