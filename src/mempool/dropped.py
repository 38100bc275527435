"""The warning about what was dropped while it was out, at the line that dropped it."""

from __future__ import annotations

import sys
import warnings


def warn(why: str, ours: int) -> None:
    """Warn with ResourceWarning. ours: how many frames of finalizers lie between this one and that of who dropped it."""
    try:
        sys._getframe(ours + 1)
    except ValueError:  # dropped where no Python runs, as the last thing of a thread
        ours = -1  # beyond the last frame CPython crashes when it lacks memory
    warnings.warn(why, ResourceWarning, stacklevel=ours + 2)
