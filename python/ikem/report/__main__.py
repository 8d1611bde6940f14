"""`python -m ikem.report FILE.png`: the picture of the project's front page."""

import sys
from pathlib import Path

from ikem.report.pictures import front_page_picture

if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m ikem.report FILE.png")
    front_page_picture(Path(sys.argv[1]))
