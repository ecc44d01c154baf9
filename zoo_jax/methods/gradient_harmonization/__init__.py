"""Gradient harmonization (arXiv 2211.02077): VATT pre-training whose losses stop fighting."""
