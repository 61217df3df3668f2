"""TEMP"""
from dataclasses import dataclass
import numpy as np
@dataclass(frozen=True)
class MotionField:
    vectors: np.ndarray
    valid: np.ndarray
    def pixels(self):
        return self.vectors.astype(np.float32)/4
def rasterise(mvs, width, height):
    h,w=-(-height//8),-(-width//8)
    out=np.zeros((h,w,2),np.int16)
    for m in mvs:
        if m["motion_scale"]==0: continue
        s=-1 if m["source"]<0 else 1
        v=(np.array([m["motion_x"],m["motion_y"]])*4*s)//m["motion_scale"]
        x0=(m["dst_x"]-m["w"]//2)//8; y0=(m["dst_y"]-m["h"]//2)//8
        out[max(y0,0):y0+max(m["h"]//8,1), max(x0,0):x0+max(m["w"]//8,1)]=v
    return out
