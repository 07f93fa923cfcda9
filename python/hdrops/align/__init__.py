"""Alignment of the frames of a hand-held bracket, which differ in exposure and in the view of the camera.

OpenCV finds and resamples; it is imported at the first use (``pip install 'hdrops[align]'``).
"""

from hdrops.align.bracket import FILLS, INTERPOLATIONS, METHODS, Alignment, align_bracket
from hdrops.align.corrected import CORRECTIONS
from hdrops.align.errors import AlignmentError
from hdrops.align.gamma import adaptive_gamma_correction

__all__ = [
    "CORRECTIONS",
    "FILLS",
    "INTERPOLATIONS",
    "METHODS",
    "Alignment",
    "AlignmentError",
    "adaptive_gamma_correction",
    "align_bracket",
]
