"""Measured numbers, one CSV per method, and the tables made from them."""
