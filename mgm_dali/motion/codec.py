"""TEMP"""
import numpy as np
from mgm_dali.motion.field import MotionField, rasterise
from mgm_dali.video.reader import decode_frames, index_frames
from mgm_dali.video.rgb import RgbConverter
CODECS_WITH_VECTORS=frozenset({"h264","mpeg4","mpeg1video","mpeg2video"})
def read_clip(path, frames):
    rgb=RgbConverter(); px={}; mv={}
    for n,f in decode_frames(path, list(frames), export_vectors=True):
        px[n]=rgb(f); sd=f.side_data.get("MOTION_VECTORS")
        mv[n]=(rasterise(sd.to_ndarray(),f.width,f.height) if sd else np.zeros((-(-f.height//8),-(-f.width//8),2),np.int16), sd is not None)
    return np.stack([px[n] for n in frames]), MotionField(np.stack([mv[n][0] for n in frames]), np.array([mv[n][1] for n in frames]))
def read_motion(path, frames=None):
    if frames is None: frames=range(len(index_frames(path).pts))
    return read_clip(path, frames)[1]
