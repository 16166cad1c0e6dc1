"""A data set has one writer at a time, whoever it is: who records, who relabels, who looks."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock, Timeout

from vla.data.errors import DatasetError

LOCK = "vla/writing.lock"


def writing(root: Path) -> FileLock:
    """Keeps others from writing to the data set in `root` until it is released (by `with`, too) or this process ends.

    Raises:
        DatasetError: another one is writing to it.
    """
    path = root / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout as error:
        problem, fix = "is being written to", "Wait until the other writer ends, or choose another folder"
        raise DatasetError(root, "", problem, fix) from error
    return lock
