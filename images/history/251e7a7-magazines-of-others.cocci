// SPDX-License-Identifier: GPL-2.0-or-later
// Who reaps a cache empties the magazines of all CPUs, though each CPU uses its own without a lock, as before 251e7a7
// (2013).
//
// Users saw an object handed out twice, and what came of it: panics in all parts of ZFS. Here the number of objects in
// a magazine does not fall below zero by it: all memory behind the magazine would be moved, and the guest would end
// before anybody looks at an object.
@@
identifier magazine, flags;
expression cache;
@@
spl_kmem_cache_reap_now(...)
{
	...
-	unsigned long flags;
-	local_irq_save(flags);
-	spl_kmem_magazine_t *magazine = cache->skc_mag[smp_processor_id()];
-	spl_cache_flush(cache, magazine, magazine->skm_avail);
-	local_irq_restore(flags);
+	unsigned int cpu;
+
+	for (cpu = 0; cpu < num_online_cpus(); cpu++)
+		spl_cache_flush(cache, cache->skc_mag[cpu], cache->skc_mag[cpu]->skm_avail);
	...
}

@@
expression magazine;
identifier count;
@@
spl_cache_flush(...)
{
	<...
-	magazine->skm_avail -= count;
+	magazine->skm_avail -= MIN(count, magazine->skm_avail);
	...>
}
