// SPDX-License-Identifier: GPL-2.0-or-later
// The worker wakes its callers before it says that the cache does not grow any more, as before 2adc6b35ae (2020).
//
// A caller that looks in between goes back to sleep, and wakes up by its timeout. Users saw allocations of 100 ms, which
// made up most of the time of those who allocate and free a lot.
@wakes_nobody@
expression queue, error;
@@
spl_cache_grow_work(...)
{
	...
-	if (error == 0)
-		wake_up_all(queue);
	...
}

@wakes_early@
identifier cache;
@@
__spl_cache_grow(...)
{
	<...
	clear_bit(KMC_BIT_DEADLOCKED, &cache->skc_flags);
	smp_mb__after_atomic();
+	wake_up_all(&cache->skc_waitq);
	...>
}
