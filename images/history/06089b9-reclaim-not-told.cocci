// SPDX-License-Identifier: GPL-2.0-or-later
// Nobody tells reclaim of the pages that SPL gives back, as before 06089b9 (2012).
//
// Reclaim saw no progress, and the kernel killed processes for memory while SPL was giving it back.
@@
symbol size, PAGE_SIZE;
expression memory;
@@
kv_free(...)
{
-	ASSERT(IS_P2ALIGNED(memory, PAGE_SIZE));
+	size = 0;
	...
}
