"""Binaries for people who study a method; run from a checkout as ``python -m experiments.X``."""
