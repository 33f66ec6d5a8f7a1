// SPDX-License-Identifier: GPL-2.0-or-later
// Every allocation of SPL carries GFP_NOIO in its own flags, whatever thread it is made in.
//
// So it was while syncing threads asked for KM_PUSHPAGE and no thread was marked ("Emergency slab objects",
// openzfs/spl pull request 155, 2012). GFP_ATOMIC has neither bit, so what may not sleep stays as it is.
@flags_of_an_allocation@
expression flags;
@@
-	kmem_flags_convert(flags)
+	(kmem_flags_convert(flags) & ~(__GFP_IO | __GFP_FS))
