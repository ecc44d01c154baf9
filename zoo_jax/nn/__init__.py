"""Layers that two or more methods use."""
