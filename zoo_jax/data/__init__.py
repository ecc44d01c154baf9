"""Data: sources with random access, one loader, transforms, and readers of untrusted files."""
