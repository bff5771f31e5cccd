"""Pre-trained distillation of compact BERTs in JAX, after Turc et al. 2019 (arXiv:1908.08962)."""

__version__ = "0.3.0"
