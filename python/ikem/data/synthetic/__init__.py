"""Synthetic recordings: a body of 25 joints performs parametric actions before a simulated depth camera.

The data are **made, not recorded**: they serve the demo and the tests, where no real recordings may be
assumed, and say nothing about how well a method recognizes real people.

The body is a tree of rigid bones with the joints, and their order, of the layout ``ntu25``. A pose is a set
of joint angles in degrees (:data:`LIMITS` lists them with their anatomical limits) and the height of a jump
in meters. Forward kinematics turns a pose into joint positions in the frame of the person: x to the person's
right, y up, z backwards, so that the person faces -z. All angles zero is the upright body with hanging arms.

- trunk: pelvis, then the lumbar (``spine_base``) and the thoracic (``spine_mid``) joint, which share the
  angles of the spine equally, then neck and head. Flexion bends forwards, lateral bending goes to the right,
  twist to the left.
- shoulder: elevation of the upper arm (0 hanging, 90 horizontal), the plane it is raised in (0 sideways,
  90 forwards, more crosses the chest) and axial rotation (positive is internal), as the International
  Society of Biomechanics recommends (Wu et al., Journal of Biomechanics 38, 2005). The shoulder girdle
  follows the arm.
- hip: flexion, abduction, rotation; elbow and knee are hinges; the forearm pronates; wrist and ankle flex.

The feet tell the body where it is: the lower foot stands on the floor and does not slide, which moves the
pelvis. So squatting lowers the body and walking carries it forwards without inverse kinematics.

The camera frame is that of Kinect v2: meters, y up, z away from the camera, and a person who faces the
camera has the right shoulder at larger x. Bone lengths and the sensor's noise per joint follow what the
tracker of NTU RGB+D (Shahroudy et al., CVPR 2016) yields: millimeters at the trunk, centimeters at hands
and feet.
"""

from .actions import ACTIONS
from .body import LIMITS
from .command import synthesize
from .generation import FRAME_RATE, generate
from .kinematics import forward_kinematics
from .recordings import Recordings

__all__ = [
    "ACTIONS",
    "FRAME_RATE",
    "LIMITS",
    "Recordings",
    "forward_kinematics",
    "generate",
    "synthesize",
]
