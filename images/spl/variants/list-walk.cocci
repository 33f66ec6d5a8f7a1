// SPDX-License-Identifier: GPL-2.0-or-later
// Emergency objects are in a list, and one that is given back is found by walking it from its head.
//
// So it was as they came ("Emergency slab objects", openzfs/spl pull request 155, 2012), until they were put into a tree
// later in that year. The two pointers of a node of the tree are those of the list here: rb_right leads to the next one,
// rb_left to the one before. What the descent of the tree was declared for stays, unused.
@walk@
identifier node, ske;
statement descend;
@@
spl_emergency_search(...)
{
	...
	struct rb_node *node = ...;
	...
	spl_kmem_emergency_t *ske;
	...
-	while (node) descend
+	for (; node; node = node->rb_right) {
+		ske = container_of(node, spl_kmem_emergency_t, ske_node);
+		if (ske->ske_obj == address)
+			return (ske);
+	}
	...
}

@put_at_the_head@
expression ske, root, before, place;
statement descend;
@@
spl_emergency_insert(...)
{
	...
-	while (*place) descend
-	rb_link_node(&ske->ske_node, before, place);
-	rb_insert_color(&ske->ske_node, root);
+	ske->ske_node.rb_left = NULL;
+	ske->ske_node.rb_right = root->rb_node;
+	if (root->rb_node)
+		root->rb_node->rb_left = &ske->ske_node;
+	root->rb_node = &ske->ske_node;
	...
}

@take_out@
expression ske, cache;
@@
spl_emergency_free(...)
{
	<...
-	rb_erase(&ske->ske_node, &cache->skc_emergency_tree);
+	if (ske->ske_node.rb_left)
+		ske->ske_node.rb_left->rb_right = ske->ske_node.rb_right;
+	else
+		cache->skc_emergency_tree.rb_node = ske->ske_node.rb_right;
+	if (ske->ske_node.rb_right)
+		ske->ske_node.rb_right->rb_left = ske->ske_node.rb_left;
	...>
}
