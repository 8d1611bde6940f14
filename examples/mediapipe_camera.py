"""The first person before a camera, as lines of JSON, by MediaPipe.

``pip install mediapipe opencv-python``, download a ``pose_landmarker`` model, and then::

    python examples/mediapipe_camera.py MODEL | ikem live CHECKPOINT --stdin --window 2.0 --layout mediapipe33
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

from ikem.live import Frames
from ikem.live.lines import line_of_frame


def frame_of(result: Any, seconds: float) -> Frames:
    """What MediaPipe found as a frame: joints (3, 33, people) in meters around the hips, y up, as Kinect has them."""
    people = [[(mark.x, mark.y, mark.z, mark.visibility) for mark in marks] for marks in result.pose_world_landmarks]
    found = np.array(people, dtype=np.float64).reshape(len(people), 33, 4).transpose(2, 1, 0)
    axes = np.array([-1, -1, 1]).reshape(3, 1, 1)  # MediaPipe's y goes down, and its x to the camera's right
    return Frames(found[:3] * axes, seconds, None, found[3] if people else None)


def main() -> None:
    """Reads the camera until it ends or Ctrl-C."""
    import cv2
    import mediapipe

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a pose_landmarker .task file")
    parser.add_argument("--camera", type=int, default=0)
    options = parser.parse_args()
    vision = mediapipe.tasks.vision
    settings = vision.PoseLandmarkerOptions(
        base_options=mediapipe.tasks.BaseOptions(model_asset_path=options.model),
        running_mode=vision.RunningMode.VIDEO,
    )
    camera, began = cv2.VideoCapture(options.camera), time.monotonic()
    with vision.PoseLandmarker.create_from_options(settings) as landmarker:
        while camera.isOpened():
            there, image = camera.read()
            if not there:
                break
            seconds = time.monotonic() - began
            colors = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
            picture = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=colors)
            result = landmarker.detect_for_video(picture, int(1000 * seconds))
            print(line_of_frame(frame_of(result, seconds)), flush=True)


if __name__ == "__main__":
    main()
