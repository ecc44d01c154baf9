"""Gradient transformations and what they are built from; each works in any optax chain."""
