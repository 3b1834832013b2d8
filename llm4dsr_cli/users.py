"""Users: how they are told apart."""

from __future__ import annotations

import numpy as np


def user_text(user: object) -> str:
    """A user's id as text, by which users are told apart: one export writes 5, another "5" or 5.0, numpy int64(5)."""
    if isinstance(user, np.generic):
        user = user.item()
    if isinstance(user, float) and user.is_integer():
        user = int(user)
    return user if isinstance(user, str) else repr(user)
