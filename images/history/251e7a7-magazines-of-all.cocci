// SPDX-License-Identifier: GPL-2.0-or-later
// Reaping empties the magazines of all CPUs, as before 251e7a7 (2013), and not that of its own CPU alone.
//
// Nobody but its CPU may touch a magazine, for which there is no lock. Users saw objects handed out twice, and panics in
// all parts of ZFS.
@@
typedef spl_kmem_magazine_t;
symbol skm, irq_flags;
expression cache;
@@
spl_kmem_cache_reap_now(...)
{
	...
	local_irq_save(irq_flags);
-	spl_kmem_magazine_t *skm = cache->skc_mag[smp_processor_id()];
-	spl_cache_flush(cache, skm, skm->skm_avail);
+	for (int of = 0; of < num_possible_cpus(); of++)
+		spl_cache_flush(cache, cache->skc_mag[of], cache->skc_mag[of]->skm_avail);
	local_irq_restore(irq_flags);
	...
}
