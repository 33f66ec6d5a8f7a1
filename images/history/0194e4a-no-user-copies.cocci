// SPDX-License-Identifier: GPL-2.0-or-later
// Nothing says that objects may be copied to user space, as before 0194e4a (2017), and before 2ebe396 (2015).
//
// Kernels that look at such copies (CONFIG_HARDENED_USERCOPY, which all distributions have) stop who makes one.
@@
expression name, size, align, flags;
@@
-	kmem_cache_create_usercopy(name, size, align, flags, 0, size, NULL)
+	kmem_cache_create_usercopy(name, size, align, flags, 0, 0, NULL)
