// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Shrinkers, as each version of the kernel wants them registered.
 */
#include "slabprobe.h"
#include "shrink.h"

#if PROBE_SHRINKER_IS_ALLOCATED
int probe_shrinker_add(struct probe_shrinker *own)
{
	own->shrinker = shrinker_alloc(0, PROBE_NAME);
	if (!own->shrinker)
		return -ENOMEM;
	own->shrinker->count_objects = own->count;
	own->shrinker->scan_objects = own->scan;
	own->shrinker->batch = own->batch;
	shrinker_register(own->shrinker);
	return 0;
}

void probe_shrinker_remove(struct probe_shrinker *own)
{
	shrinker_free(own->shrinker);
}
#else
int probe_shrinker_add(struct probe_shrinker *own)
{
	own->shrinker.count_objects = own->count;
	own->shrinker.scan_objects = own->scan;
	own->shrinker.batch = own->batch;
	own->shrinker.seeks = DEFAULT_SEEKS;
	/* It has a name since Linux commit e33c267ab70d (in 6.0). */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 0, 0)
	return register_shrinker(&own->shrinker, PROBE_NAME);
#else
	return register_shrinker(&own->shrinker);
#endif
}

void probe_shrinker_remove(struct probe_shrinker *own)
{
	unregister_shrinker(&own->shrinker);
}
#endif
