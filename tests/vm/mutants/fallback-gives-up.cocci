// SPDX-License-Identifier: GPL-2.0-or-later
// A caller whose emergency object cannot be had once does not try again, but waits for the worker.
@@
expression cache, flags, obj;
identifier rc;
@@
	rc = spl_emergency_alloc(cache, flags, obj);
+	if (rc == -ENOMEM)
+		wait_event(cache->skc_waitq, spl_cache_grow_wait(cache));
