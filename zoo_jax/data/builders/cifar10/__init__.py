"""CIFAR-10 from its official Python files."""
