// SPDX-License-Identifier: GPL-2.0-or-later
// An object that is given back goes to its slab and not into the magazine of the CPU.
@@
expression magazine, object;
@@
spl_kmem_cache_free(...)
{
	<...
-	magazine->skm_objs[magazine->skm_avail++] = object;
+	spin_lock(&skc->skc_lock);
+	spl_cache_shrink(skc, object);
+	spin_unlock(&skc->skc_lock);
	...>
}
