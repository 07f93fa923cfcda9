"""Brackets to train, test and demonstrate with: a rendered scene, brackets on disk, and synthesis from HDR images.

A *scene* is what a split divides: all exposures of one subject, or one HDR image. Random choices are drawn from
generators of NumPy that the caller passes, never from a global state.
"""

from hdrops.data.camera import Camera, LinearPhotograph, Panorama, draw_camera, metered_time
from hdrops.data.dynamic import DynamicScenes
from hdrops.data.fusion import FusionTriplets, classify_exposures
from hdrops.data.hdrplus import HDRPlusBursts
from hdrops.data.jpeg import jpeg_round_trip
from hdrops.data.moving import KalantariScenes, NTIREScenes
from hdrops.data.raw_pairs import NoiseProfile, RawPairs, draw_noise_profile, raw_pair
from hdrops.data.responses import (
    RESPONSE_FAMILIES,
    EmpiricalResponses,
    Response,
    contrast_response,
    draw_response,
    gamma_response,
    log_response,
    polynomial_response,
    read_emor,
    sigmoid_response,
    srgb_response,
    table_response,
)
from hdrops.data.sample import camera_response, expose, render_scene, sample_bracket, sample_times
from hdrops.data.scenes import find_scenes, split_scenes
from hdrops.data.triplets import FRACTIONS, BracketTriplets, Sample, SyntheticTriplets, Triplet

__all__ = [
    "FRACTIONS",
    "RESPONSE_FAMILIES",
    "BracketTriplets",
    "Camera",
    "DynamicScenes",
    "EmpiricalResponses",
    "FusionTriplets",
    "HDRPlusBursts",
    "KalantariScenes",
    "LinearPhotograph",
    "NTIREScenes",
    "NoiseProfile",
    "Panorama",
    "RawPairs",
    "Response",
    "Sample",
    "SyntheticTriplets",
    "Triplet",
    "camera_response",
    "classify_exposures",
    "contrast_response",
    "draw_camera",
    "draw_noise_profile",
    "draw_response",
    "expose",
    "find_scenes",
    "gamma_response",
    "jpeg_round_trip",
    "log_response",
    "metered_time",
    "polynomial_response",
    "raw_pair",
    "read_emor",
    "render_scene",
    "sample_bracket",
    "sample_times",
    "sigmoid_response",
    "split_scenes",
    "srgb_response",
    "table_response",
]
