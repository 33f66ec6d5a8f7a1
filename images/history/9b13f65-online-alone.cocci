// SPDX-License-Identifier: GPL-2.0-or-later
// A cache has magazines for those CPUs alone that are online when it is made, as before 9b13f65 (2015).
//
// A CPU that came later had none: the machine crashed as soon as anybody on it asked for an object.
@@
iterator name for_each_possible_cpu, for_each_online_cpu;
expression cpu;
statement body;
@@
spl_magazine_create(...)
{
	<...
-	for_each_possible_cpu(cpu) body
+	for_each_online_cpu(cpu) body
	...>
}
