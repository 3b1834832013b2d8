"""Defaults that the library and the command line's help share; no heavy import stands in their way."""

from __future__ import annotations

FALSE_EDIT_RATE = 0.01
EDIT = 0.05  # share of all items that `clean` of a file edits
USER_FIELD = "user_id"
