"""Frames: data frames of interactions, one a row, cleaned in memory."""
