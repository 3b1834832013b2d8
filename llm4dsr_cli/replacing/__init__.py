"""Replacing: what takes the place of an item that the gate flagged."""
