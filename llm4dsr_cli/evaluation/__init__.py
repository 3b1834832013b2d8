"""Evaluation: how well noise of known place is found."""
