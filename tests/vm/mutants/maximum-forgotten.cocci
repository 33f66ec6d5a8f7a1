// SPDX-License-Identifier: GPL-2.0-or-later
// The historical maximum is never raised.
@@
expression cache;
@@
-	if (cache->skc_obj_emergency > cache->skc_obj_emergency_max)
-		cache->skc_obj_emergency_max = cache->skc_obj_emergency;
