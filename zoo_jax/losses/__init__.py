"""Losses that several methods use: pure functions of arrays."""
