"""Reports: the terminal's table and one self-contained page, from a workdir's files alone."""

from pd_jax.report.page import table_text, write_report

__all__ = ["table_text", "write_report"]
