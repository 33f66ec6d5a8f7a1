// SPDX-License-Identifier: GPL-2.0-or-later
// Emergency objects may enter a filesystem's reclaim: the seed's own claim, that GFP_NOIO protects them, is false.
@flags_of_an_emergency_object@
identifier lflags;
expression flags;
@@
spl_emergency_alloc(...)
{
	...
-	gfp_t lflags = flags;
+	gfp_t lflags = (flags) | __GFP_IO | __GFP_FS;
	...
}
