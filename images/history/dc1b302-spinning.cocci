// SPDX-License-Identifier: GPL-2.0-or-later
// Whoever finds no object while the cache is being reaped tries again at once, as before dc1b302 (2012).
//
// Users saw machines that seemed to hang: several callers took turns at the cache's lock and kept the CPUs.
@@
expression bits, result;
@@
spl_cache_grow(...)
{
	...
	if (test_bit(KMC_BIT_REAPING, bits)) {
-		...
-		return (result);
+		return (-EAGAIN);
	}
	...
}
