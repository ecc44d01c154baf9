"""U-SAID (arXiv 1905.08965): denoising that a segmentation network finds easy to read."""
