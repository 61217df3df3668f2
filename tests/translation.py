"""A stand-in for an estimator of flow: finds how the whole picture has moved, by its spectrum."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["where_it_was"]


def where_it_was(present: NDArray[np.uint8], past: NDArray[np.uint8]) -> tuple[int, int]:
    """(dx, dy): what is at a place of the present was that far from there in the past.

    Phase correlation of two `[H, W, 3]` pictures; true to whole pixels.
    """
    spectra = [np.fft.fft2(image.mean(axis=-1)) for image in (present, past)]
    cross = np.conj(spectra[0]) * spectra[1]
    peak = np.fft.ifft2(cross / np.maximum(np.abs(cross), 1e-9)).real
    place = np.unravel_index(peak.argmax(), peak.shape)
    dy, dx = (
        int(at) if at < size / 2 else int(at) - size
        for at, size in zip(place, peak.shape, strict=True)
    )
    return dx, dy
