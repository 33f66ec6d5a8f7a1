// SPDX-License-Identifier: GPL-2.0-or-later
// A growth that fails is never over, so nobody asks for another one.
@@
expression flags;
@@
spl_cache_grow_work(...)
{
	<...
-	clear_bit(KMC_BIT_GROWING, flags);
+	if (error == 0)
+		clear_bit(KMC_BIT_GROWING, flags);
	...>
}
