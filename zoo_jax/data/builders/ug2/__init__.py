"""UG^2: annotated frames, and objects cut out of them, from videos taken apart into frames."""
