"""Enhancers by name: functions that take pictures and return pictures of the same size."""
