"""How many CPU cores this process may really use: what threads are worth starting."""

import os
from pathlib import Path

_V2 = Path("/sys/fs/cgroup/cpu.max")
_V1 = Path("/sys/fs/cgroup/cpu")


def effective_cores() -> int:
    """CPU cores that this process may run on, and that its control group's quota pays for; at least 1.

    In a container `os.cpu_count()` is the whole machine's. Threads beyond the quota are stopped in turn, and a parallel
    loop waits for the one that is.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, int(_quota())))


def _quota() -> float:
    """Cores that the control group (Linux, version 2 or 1) pays for; infinitely many where nothing limits them."""
    try:
        if _V2.exists():
            quota, period = _V2.read_text().split()
        else:
            quota = (_V1 / "cpu.cfs_quota_us").read_text()
            period = (_V1 / "cpu.cfs_period_us").read_text()
        return float(quota) / float(period) if float(quota) > 0 else 1e6
    except (OSError, ValueError):  # no such file, or "max"
        return 1e6
