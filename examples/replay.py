"""Plays a recording as lines of JSON, each frame at its time: ``python examples/replay.py FILE | ikem live ...``."""

from __future__ import annotations

import argparse

from ikem.data.recordings import read_recordings
from ikem.live.command import played
from ikem.live.lines import line_of_frame

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", help="a recording; of several, the first is played")
    parser.add_argument("--fps", type=float, default=30.0, help="its frames per second")
    parser.add_argument("--speed", type=float, default=1.0, help="how much faster; 0 waits for nothing")
    options = parser.parse_args()
    for frame in played(next(iter(read_recordings(options.file))), options.fps, options.speed):
        print(line_of_frame(frame), flush=True)
