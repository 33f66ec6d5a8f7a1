// SPDX-License-Identifier: GPL-2.0-or-later
// The worker does not wake those who wait for it; they find the new slab when their time is up.
@@
expression queue;
@@
spl_cache_grow_work(...)
{
	<...
-	wake_up_all(queue);
+	(void) queue;
	...>
}
