// SPDX-License-Identifier: GPL-2.0-or-later
// Emergency objects may do I/O in reclaim, but not enter a filesystem.
@flags_of_an_emergency_object@
identifier lflags;
expression flags;
@@
spl_emergency_alloc(...)
{
	...
-	gfp_t lflags = flags;
+	gfp_t lflags = (flags) | __GFP_IO;
	...
}
