"""Two directory entries exchanged in one step of the file system, by the call that each system has for it."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from pathlib import Path

_HERE = -100  # AT_FDCWD: paths count from the working folder
_EXCHANGE = 2  # RENAME_EXCHANGE of renameat2 (Linux 3.15), and RENAME_SWAP of renamex_np (macOS 10.12)
_UNKNOWN = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)


def exchange(a: Path, b: Path) -> bool:
    """Swap two existing entries: true if it was done, false where the system or the file system has no such call.

    Raises OSError for anything else that went wrong.
    """
    library = ctypes.CDLL(None, use_errno=True)
    first, second = os.fsencode(a), os.fsencode(b)
    if sys.platform.startswith("linux") and hasattr(library, "renameat2"):
        status = library.renameat2(_HERE, first, _HERE, second, ctypes.c_uint(_EXCHANGE))
    elif sys.platform == "darwin" and hasattr(library, "renamex_np"):
        status = library.renamex_np(first, second, ctypes.c_uint(_EXCHANGE))
    else:
        return False
    if status == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNKNOWN:
        return False
    raise OSError(code, os.strerror(code), str(b))
