// SPDX-License-Identifier: GPL-2.0-or-later
// The cache stays flagged after the worker has come back.
@@
expression flags;
@@
-	clear_bit(KMC_BIT_DEADLOCKED, flags);
