"""Defaults that the library and the command line's help share; no heavy import stands in their way."""

from __future__ import annotations

FALSE_EDIT_RATE = 0.01
USER_FIELD = "user_id"
