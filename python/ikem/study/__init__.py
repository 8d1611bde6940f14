"""`ikem study`: variants of a configuration over several seeds, trained and evaluated, in one table with its spread.

`definition.py` reads the file, with `measures.py` and `checks.py`; `plan.py` says what runs there are, with `steps.py`
and `keys.py` what each is made of and follows from. `run.py` does what is missing: `progress.py` keeps what is done,
`sharing.py` takes over what another run has, `process.py` and `child.py` run a step, `lock.py` keeps studies away from
each other's runs, `remaining.py` and `status.py` tell the time. `table.py` and `picture.py` write what came of it.
"""

from ikem.study.run import study

__all__ = ["study"]
