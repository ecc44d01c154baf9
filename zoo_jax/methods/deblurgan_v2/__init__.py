"""DeblurGAN-v2 (arXiv 1908.03826): deblurring by a feature pyramid and two critics."""
