"""Motion-guided masking for video masked autoencoders (Fan et al., ICCV 2023, arXiv 2308.12962)."""

__version__ = "0.1.0"
