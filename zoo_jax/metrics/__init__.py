"""Measures of quality and cost. They return per-example values; masks and means come later."""
