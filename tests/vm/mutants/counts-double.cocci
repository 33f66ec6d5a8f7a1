// SPDX-License-Identifier: GPL-2.0-or-later
// Every emergency object counts twice, in and out.
@@
expression cache;
@@
(
-	cache->skc_obj_emergency++
+	cache->skc_obj_emergency += 2
|
-	cache->skc_obj_emergency--
+	cache->skc_obj_emergency -= 2
)
