"""Whether a workload fits into a guest's memory. Pure: arithmetic, with what it rests on."""

from __future__ import annotations

from splvm.errors import UsageError
from splvm.run.scenarios import Workload

# MiB that a guest of this project does not have for objects: kernel, initramfs, agent, and what the kernel keeps free.
# Of a guest of 512 MiB some 350 were free in the window of `nominal` (docs/performance.md).
OWN_MIB = 160

# Objects of a slab (SPL_KMEM_CACHE_OBJ_PER_SLAB, spl-kmem-cache.c): a thread's last slab is whole.
_PER_SLAB = 8

_MIB = 1 << 20


def check_fits(workload: Workload, ram_mib: int) -> None:
    """See whether a guest has the memory for all objects that threads hold at once.

    :raises UsageError: when it does not; the message has the arithmetic.
    """
    of_each = workload.objects + workload.keep
    needed = workload.threads * (of_each + _PER_SLAB) * workload.size
    if needed > max(0, ram_mib - OWN_MIB) * _MIB:
        needed_mib = -(-needed // _MIB)
        raise UsageError(
            f"the workload does not fit into the guest: {workload.threads} threads times {of_each} objects and a slab "
            f"of {_PER_SLAB}, of {workload.size} bytes, are {needed_mib} MiB; of {ram_mib} MiB the guest has "
            f"{max(0, ram_mib - OWN_MIB)} for that",
            hint=f"--memory {needed_mib + OWN_MIB} or more, or fewer, smaller objects (--threads, --objects, --size)",
        )
