"""Reports: the terminal's table and one self-contained page, from a workdir's files alone."""

from pd_jax.report.formats import read_report

__all__ = ["read_report"]
