"""MNIST from its official idx files."""
