"""Logs: files of interactions as people hold them, gathered to sequences, and written back with what was edited."""
