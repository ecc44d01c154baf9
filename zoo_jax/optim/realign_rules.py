"""Rules that turn the Gram matrix of conflicting gradients into weights."""

from typing import Literal

Rule = Literal["none", "pcgrad", "upgrad", "cagrad", "mgda", "gradvac"]
