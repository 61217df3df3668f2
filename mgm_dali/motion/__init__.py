"""TEMP"""

from mgm_dali.motion.field import MotionField
from mgm_dali.motion.codec import read_clip, read_motion

MOTION_SOURCES = {"codec": lambda p, f, s: read_motion(p, f)}
