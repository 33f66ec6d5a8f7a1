// SPDX-License-Identifier: GPL-2.0-or-later
// kmem_alloc() takes contiguous memory alone, as before bbcec73783 (2021).
//
// Where free memory lay in single pages it did not come back, or the kernel killed processes for contiguous memory.
@@
identifier pointer, mask;
@@
spl_kmem_alloc_impl(...)
{
	<...
-	pointer = spl_kvmalloc(size, mask);
+	pointer = flags & KM_VMEM ? spl_kvmalloc(size, mask) : kmalloc_node(size, mask, node);
	...>
}
