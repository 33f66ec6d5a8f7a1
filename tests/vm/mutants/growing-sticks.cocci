// SPDX-License-Identifier: GPL-2.0-or-later
// The worker never says that it is done, so the cache never grows a second time.
@@
expression flags;
@@
spl_cache_grow_work(...)
{
	<...
-	clear_bit(KMC_BIT_GROWING, flags);
	...>
}
