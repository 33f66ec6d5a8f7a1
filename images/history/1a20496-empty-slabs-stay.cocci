// SPDX-License-Identifier: GPL-2.0-or-later
// A slab that is empty stays for a while, as before 1a20496 (2014).
//
// Users saw SPL keep its memory while others ran out of it. Here a slab has to be empty for 15 s, as then by default.
@@
expression slab, cache;
@@
spl_slab_reclaim(...)
{
	<...
-	if (slab->sks_ref > 0)
+	if (slab->sks_ref > 0 || (!test_bit(KMC_BIT_DESTROY, &slab->sks_cache->skc_flags) &&
+	    time_before(jiffies, slab->sks_age + 15 * HZ)))
		break;
	...>
}
