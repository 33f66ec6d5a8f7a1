"""How long is "stands still": one table, each duration with its reason. All are nanoseconds of guest time.

What is judged rests on the first four; the last two tell the harness when to look closer and when to stop waiting.
"""

from __future__ import annotations

# A critical thread that got no object, and a trap in which no transaction was committed, for this long up to the end of
# the window; half of the window if that is less. SPL's own timeout is a tenth of a second (a whole one before 2015), so
# a caller that still goes on has asked again several times by then.
THREAD_NS = 1_500_000_000

# A pool without a new txg for this long up to the end of the window; four fifths of the window if that is less. A txg
# is synced every second at least (zfs_txg_timeout=1), but one that finds memory taken was seen to take 2.8 s.
TXG_NS = 4_000_000_000

# A load that did nothing for this long: a process writes many times a second, to a disk of some MiB/s.
WORK_NS = 1_000_000_000

# The same of a load whose processes wait for memory that others have to write to swap or give back first.
CROWD_NS = 5_000_000_000

# A critical thread that has waited this long for one object when the window ends: the guest is asked who waits for
# whom. Shorter than what is judged, because the question costs a bad run nothing, and a good one no verdict.
LOOK_NS = 1_000_000_000

# A pool without a new txg for this long is not waited for any more. It syncs once a second, or when the disk is done
# with what came before; the second beyond TXG_NS is for the readings that have to show it.
GIVE_UP_NS = 5_000_000_000
