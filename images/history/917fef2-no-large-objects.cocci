// SPDX-License-Identifier: GPL-2.0-or-later
// A cache of whose objects fewer than eight go into a slab cannot be made, as before 917fef2 (2014).
@@
expression count;
@@
spl_slab_size(...)
{
	<...
-	if (count == 0)
+	if (count < 8)
		return ...;
	...>
}
