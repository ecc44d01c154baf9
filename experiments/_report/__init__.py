"""The parts of ``experiments.report``: reading workdirs, drawing curves, writing the page."""
