// SPDX-License-Identifier: GPL-2.0-or-later
// Callers that time out are not counted.
@@
expression cache;
@@
-	cache->skc_obj_deadlock++;
