"""The report of a run: pictures, tables, and what the numbers do and do not show.

``ikem report --config NAME`` reads what pretraining, distillation and evaluation left in the run's folder and writes
``report.md``, ``report.html`` and ``pictures/*.png`` there. ``python -m ikem.report FILE.png`` draws the six modalities
of a synthetic clip, the picture of the project's front page.
"""

from ikem.report.write import report

__all__ = ["report"]
