// SPDX-License-Identifier: GPL-2.0-or-later
// An allocation with KM_NOSLEEP waits for the worker, as before 93f8abeff0 (2023).
//
// Who must not sleep slept: kernels that check it said so, and others could deadlock.
@@
expression flags, cache, object;
@@
spl_cache_grow(...)
{
	...
-	if (flags & KM_NOSLEEP)
-		return (spl_emergency_alloc(cache, flags, object));
	...
}
