"""One folder per paper. Methods import what lies below them, never each other."""
