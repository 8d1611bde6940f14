"""Actions named while they happen.

``recognizer`` is what one uses; ``frames`` and ``buffer`` are its parts: what a frame is, checked and resampled, and
the last frames of a stream. ``lines`` reads and writes JSON lines, ``command`` is `ikem live`, ``bench`` measures.
"""

from __future__ import annotations

from ikem.live.frames import Frames
from ikem.live.recognizer import Recognizer, RecognizerPool, Result

__all__ = ["Frames", "Recognizer", "RecognizerPool", "Result"]
