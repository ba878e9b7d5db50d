"""Experiments as data: a table of systems (``table``), the steps that make them (``steps``), which steps are done
(``records``), and the runner of those that are not (``run``)."""

from asr_kd.experiment.read_table import load_table
from asr_kd.experiment.table import Table

__all__ = ["Table", "load_table"]
