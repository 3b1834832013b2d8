"""Cleaning: joins records, model, gate and replacing."""
