// SPDX-License-Identifier: GPL-2.0-or-later
// Nobody ever learns that the worker hangs, so nobody falls back.
@@
expression flags;
@@
spl_cache_grow(...)
{
	<...
-	set_bit(KMC_BIT_DEADLOCKED, flags);
	...>
}
