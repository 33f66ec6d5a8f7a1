// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The cache under test. SPL's headers redefine common names, so they stay here.
 */
#include <sys/kmem.h>
#include <sys/kmem_cache.h>

#include "slabprobe.h"

struct probe_bits probe_cache_bits(void)
{
	return (struct probe_bits) {
		.kvmem = KMC_KVMEM,
		.deadlocked = KMC_DEADLOCKED,
		.growing = KMC_GROWING,
		.reaping = KMC_REAPING,
	};
}

/*
 * KMC_KVMEM is what SPL picks by itself for objects over
 * spl_kmem_cache_slab_limit: slabs from vmalloc, grown by the worker. Asked for
 * by name it holds for any size.
 */
struct probe_cache *probe_cache_create(size_t size)
{
	static char name[] = PROBE_NAME;

	return (struct probe_cache *)spl_kmem_cache_create(name, size, 0,
			NULL, NULL, NULL, NULL, NULL, KMC_KVMEM);
}

void probe_cache_destroy(struct probe_cache *cache)
{
	spl_kmem_cache_destroy((spl_kmem_cache_t *)cache);
}

void *probe_cache_alloc(struct probe_cache *cache)
{
	return spl_kmem_cache_alloc((spl_kmem_cache_t *)cache, KM_SLEEP);
}

void probe_cache_free(struct probe_cache *cache, void *obj)
{
	spl_kmem_cache_free((spl_kmem_cache_t *)cache, obj);
}

void probe_cache_reap(struct probe_cache *cache)
{
	spl_kmem_cache_reap_now((spl_kmem_cache_t *)cache);
}

size_t probe_cache_slab_size(const struct probe_cache *cache)
{
	return ((const spl_kmem_cache_t *)cache)->skc_slab_size;
}

/* That of the CPU it is called on; a cache of the kernel's own allocator has none. */
struct probe_magazine probe_cache_magazine(const struct probe_cache *cache)
{
	const spl_kmem_cache_t *skc = (const spl_kmem_cache_t *)cache;
	const spl_kmem_magazine_t *skm;

	if (!skc || !skc->skc_mag)
		return (struct probe_magazine) { 0 };
	skm = skc->skc_mag[raw_smp_processor_id()];
	return (struct probe_magazine) {
		.size = skm->skm_size,
		.refill = skm->skm_refill,
		.avail = READ_ONCE(skm->skm_avail),
	};
}

/* Whether the work that spl_cache_grow() hands to the worker is of this cache. */
bool probe_cache_grows(const struct probe_cache *cache, const void *work)
{
	return ((const spl_kmem_alloc_t *)work)->ska_cache == (const spl_kmem_cache_t *)cache;
}
