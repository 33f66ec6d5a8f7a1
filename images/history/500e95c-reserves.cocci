// SPDX-License-Identifier: GPL-2.0-or-later
// A slab may be made of the reserves of memory, as before 500e95c (2012).
//
// The thread is marked PF_MEMALLOC, so the kernel neither reclaims nor refuses: users saw memory used up to the last
// page, and those for whom the reserves are there got nothing.
@@
identifier memory;
expression size, mask;
@@
kv_alloc(...)
{
	...
+	unsigned int marked = current->flags & PF_MEMALLOC;
+
+	current->flags |= PF_MEMALLOC;
	memory = spl_vmalloc(size, mask);
+	current->flags = (current->flags & ~PF_MEMALLOC) | marked;
	...
}
