// SPDX-License-Identifier: GPL-2.0-or-later
// The threads of taskqs are not marked, so a transaction in one of them may wait for itself.
@mark_for_good@
@@
-	(void) spl_fstrans_mark();
