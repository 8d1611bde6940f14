"""`ikem study`: variants of a configuration over several seeds, trained and evaluated, in one table with its spread.

`plan.py` reads the file and says what there is to do, `run.py` does it, `table.py` writes what came of it.
"""

from ikem.study.run import study

__all__ = ["study"]
