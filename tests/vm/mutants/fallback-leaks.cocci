// SPDX-License-Identifier: GPL-2.0-or-later
// One in 64 emergency objects is not given back.
@@
identifier ske, obj;
expression root;
@@
spl_emergency_free(...)
{
	...
	spin_lock(...);
	ske = spl_emergency_search(root, obj);
-	if (ske) {
+	static unsigned int frees;
+	if (ske && frees++ % 64 == 0) {
+		spin_unlock(&skc->skc_lock);
+		return (0);
+	}
+	if (ske) {
	...
	}
	...
}
