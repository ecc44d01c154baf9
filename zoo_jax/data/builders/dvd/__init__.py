"""DVD, the pairs of deep video deblurring, from its folders of frames."""
