// SPDX-License-Identifier: GPL-2.0-or-later
// A magazine holds one object, so nearly every allocation goes to the slabs.
@@
expression cache;
@@
-	cache->skc_mag_size = spl_magazine_size(cache);
+	(void) spl_magazine_size(cache);
+	cache->skc_mag_size = 1;
