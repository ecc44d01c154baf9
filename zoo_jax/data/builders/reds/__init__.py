"""REDS from its folders of frames."""
