"""Brackets to train, test and demonstrate with."""

from hdrops.data.sample import camera_response, expose, render_scene, sample_bracket, sample_times

__all__ = ["camera_response", "expose", "render_scene", "sample_bracket", "sample_times"]
