import image_files
import numpy as np
import pytest
import shots
import torch

from hdrops.io import Exposure, InputError, Metadata, read_bracket, write_image


@pytest.fixture
def frames(tmp_path):
    """Write flat frames of the given brightness; the paths."""

    def write(*levels, exposures=None, dtype=torch.uint8, extension=".png"):
        paths = []
        for k, level in enumerate(levels):
            path = tmp_path / f"{k}{extension}"
            pixels = torch.full((3, 4, 6), level, dtype=torch.float32).to(dtype)
            write_image(path, pixels, exposure=exposures[k] if exposures else None)
            paths.append(path)
        return paths

    return write


def levels(bracket):
    return [int(image[0, 0, 0]) for image in bracket.images]


def refused(paths, *words, **options):
    with pytest.raises(InputError) as caught:
        read_bracket(paths, **options)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_by_times(frames):
    # The times contradict both the metadata and the brightness.
    exposures = [Exposure(time=t) for t in (1.0, 2.0, 3.0)]
    paths = frames(10, 20, 30, exposures=exposures)
    bracket = read_bracket(paths, times=[0.5, 0.1, 0.25])
    assert bracket.ordered_by == "times"
    assert levels(bracket) == [20, 30, 10]
    assert bracket.paths == [paths[1], paths[2], paths[0]]
    assert bracket.exposures == [exposures[1], exposures[2], exposures[0]]
    assert bracket.exposure_times.dtype == torch.float64
    assert bracket.exposure_times.tolist() == [0.1, 0.25, 0.5]
    assert bracket.images.shape == (3, 3, 4, 6)
    assert bracket.images.is_contiguous()


def test_by_ev(frames):
    bracket = read_bracket(frames(10, 20, 30), ev=[0, 2, -1])
    assert bracket.ordered_by == "ev"
    assert levels(bracket) == [30, 10, 20]
    assert bracket.exposure_times.tolist() == [0.5, 1.0, 4.0]


@pytest.mark.parametrize("extension", [".png", ".tif", ".jpg"])
def test_by_exif_times(frames, extension):
    exposures = [Exposure(time=t, f_number=8.0, iso=100) for t in (0.1, 0.025, 1 / 30)]
    bracket = read_bracket(frames(10, 20, 30, exposures=exposures, extension=extension))
    assert bracket.ordered_by == "exif"
    assert levels(bracket) == [20, 30, 10]
    assert bracket.exposure_times.tolist() == [0.025, 1 / 30, 0.1]


def test_by_exif_sensitivity(frames):
    exposures = [Exposure(time=0.1, iso=iso) for iso in (800, 100, 400)]
    bracket = read_bracket(frames(10, 20, 30, exposures=exposures))
    assert bracket.ordered_by == "exif"
    assert levels(bracket) == [20, 30, 10]
    torch.testing.assert_close(bracket.exposure_times, torch.tensor([0.1, 0.4, 0.8], dtype=torch.float64))


def test_by_exif_aperture(frames):
    exposures = [Exposure(time=0.1, f_number=f) for f in (2.0, 8.0, 4.0)]
    bracket = read_bracket(frames(10, 20, 30, exposures=exposures))
    assert levels(bracket) == [20, 30, 10]
    torch.testing.assert_close(bracket.exposure_times, torch.tensor([0.1, 0.4, 1.6], dtype=torch.float64))


def test_a_field_that_one_file_lacks_is_used_for_none(frames):
    exposures = [Exposure(time=0.1, iso=100), Exposure(time=0.2), Exposure(time=0.4, iso=100)]
    bracket = read_bracket(frames(10, 20, 30, exposures=exposures))
    assert levels(bracket) == [10, 20, 30]
    assert bracket.exposure_times.tolist() == [0.1, 0.2, 0.4]


@pytest.mark.parametrize(
    "exposures",
    [
        None,
        [Exposure(time=0.05)] * 3,
        [Exposure(time=0.05), Exposure(time=0.1), Exposure()],
        [Exposure(time=t, iso=iso) for t, iso in ((0.1, 100), (0.05, 200), (0.2, 50))],
    ],
)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_by_brightness(frames, exposures, dtype):
    bracket = read_bracket(frames(30, 10, 20, exposures=exposures, dtype=dtype))
    assert bracket.ordered_by == "brightness"
    assert levels(bracket) == [10, 20, 30]
    assert bracket.exposure_times is None
    assert bracket.images.dtype == dtype


def test_equal_frames_keep_their_order(frames):
    paths = frames(20, 20, 10, 20)
    assert read_bracket(paths).paths == [paths[2], paths[0], paths[1], paths[3]]
    assert read_bracket(paths, times=[2, 1, 2, 1]).paths == [paths[1], paths[3], paths[0], paths[2]]


def test_linear_frames(frames):
    bracket = read_bracket(frames(3, 1, 2, dtype=torch.float32, extension=".exr"))
    assert (bracket.images.dtype, levels(bracket)) == (torch.float32, [1, 2, 3])


def test_one_frame(frames):
    bracket = read_bracket(frames(10))
    assert (bracket.images.shape, bracket.ordered_by) == ((1, 3, 4, 6), "brightness")
    assert read_bracket([str(bracket.paths[0])], times=[0.5]).exposure_times.tolist() == [0.5]


def test_wrong_arguments(frames):
    paths = frames(10, 20)
    refused([], "at least one")
    refused(str(paths[0]), "list of files")
    refused(paths, "one entry per image", "got 3 for 2", times=[1, 2, 3])
    refused(paths, "one entry per image", "got 1 for 2", ev=[1])
    refused(paths, "give one of them", times=[1, 2], ev=[0, 1])
    for value in (0, -1, float("nan"), float("inf")):
        refused(paths, "times must be positive and finite", times=[1, value])
    for value in (float("nan"), float("inf"), 1e9):
        refused(paths, "ev must be finite", ev=[0, value])
    refused([paths[0], paths[1].with_name("none.png")], "none.png", "No such file")


def test_arguments_are_checked_before_anything_is_read(tmp_path):
    refused([tmp_path / "none.png"], "one entry per image", times=[1, 2])


def test_frames_that_differ(tmp_path):
    base = image_files.smooth(8, 10, 3, 255)
    image_files.write(tmp_path / "a.png", base.astype(np.uint8))
    image_files.write(tmp_path / "size.png", base[:, :9].astype(np.uint8))
    image_files.write(tmp_path / "grey.png", base[..., :1].astype(np.uint8))
    image_files.write(tmp_path / "deep.png", base.astype(np.uint16))
    image_files.write(tmp_path / "float.exr", base)
    for name, words in (
        ("size.png", ("10 x 8", "9 x 8", "crop")),
        ("grey.png", ("8-bit RGB", "8-bit grey")),
        ("deep.png", ("8-bit RGB", "16-bit RGB")),
        ("float.exr", ("8-bit RGB", "float RGB")),
    ):
        refused([tmp_path / "a.png", tmp_path / name], "a.png", name, *words)


# ---- exposures against the brightness -------------------------------------------------------------


def test_right_times_are_not_doubted(tmp_path):
    paths = [shots.write(tmp_path / f"{k}.jpg", 0, 2 * k, time=4**k / 100) for k in range(-1, 2)]
    bracket = read_bracket(paths)
    assert (bracket.ordered_by, bracket.warnings, bracket.paths) == ("exif", (), paths)


@pytest.mark.parametrize("times", [(1 / 25, 1 / 100, 1 / 400), (1 / 60,) * 3, (1 / 400, 1 / 50, 1 / 6400)])
def test_false_times_give_way_to_the_brightness(tmp_path, times):
    paths = [shots.write(tmp_path / f"{k}.jpg", 0, 2 * k - 2, time=time) for k, time in enumerate(times)]
    bracket = read_bracket(paths[::-1])
    assert (bracket.ordered_by, bracket.exposure_times, bracket.paths) == ("brightness", None, paths)
    assert len(bracket.warnings) == 1
    assert "contradict" in bracket.warnings[0]
    assert "\n" not in bracket.warnings[0]
    assert not bracket.exposures_believed
    assert bracket.common_exposure.time is None


def test_different_colour_profiles_are_said(tmp_path):
    paths = []
    for k, profile in enumerate((image_files.icc_profile(b"RGB "), None)):
        paths.append(tmp_path / f"{k}.png")
        pixels = torch.full((3, 8, 8), 60 + 80 * k, dtype=torch.uint8)
        write_image(paths[-1], pixels, metadata=Metadata(icc_profile=profile))
    bracket = read_bracket(paths)
    assert bracket.warnings == ("the frames have 2 different colour profiles, which are not applied",)
    assert bracket.exposures_believed


def test_stated_times_are_kept_but_doubted(tmp_path):
    paths = [shots.write(tmp_path / f"{k}.png", 0, 2 * k - 2) for k in range(3)]
    assert read_bracket(paths, ev=[-2, 0, 2]).warnings == ()
    bracket = read_bracket(paths, ev=[2, 0, -2])
    assert (bracket.ordered_by, bracket.paths) == ("ev", paths[::-1])
    assert "the stated order is kept" in bracket.warnings[0]


def test_times_that_some_files_lack_are_said(tmp_path):
    paths = [shots.write(tmp_path / f"{k}.jpg", 0, k, time=None if k else 0.1) for k in range(3)]
    bracket = read_bracket(paths)
    assert (bracket.ordered_by, len(bracket.warnings)) == ("brightness", 1)
    assert "2 of 3 files state no exposure time (such as 1.jpg)" in bracket.warnings[0]


# ---- real brackets --------------------------------------------------------------------------------


@pytest.mark.parametrize("scene", ["colorchecker", "land", "livingroom", "treyratcliff", "villa"])
def test_real_exif(data, brackets, scene):
    entry = brackets[f"brackets/misc/{scene}"]
    paths = [data / entry["dir"] / name for name in entry["files"]]
    bracket = read_bracket(paths[::-1])
    assert (bracket.ordered_by, bracket.paths) == ("exif", paths)
    torch.testing.assert_close(
        bracket.exposure_times, torch.tensor(entry["exif_times"], dtype=torch.float64), rtol=1e-6, atol=0
    )


def test_real_times_out_of_file_order(data, brackets):
    entry = brackets["brackets/memorial/memorial"]
    paths = [data / entry["dir"] / name for name in entry["files"]]
    pairs = sorted(zip(paths, entry["exposure_times"], strict=True))
    bracket = read_bracket([path for path, _ in pairs], times=[time for _, time in pairs])
    assert bracket.paths == paths
    assert bracket.paths != sorted(paths)


def test_real_brightness(data, brackets):
    entry = brackets["brackets/dynamic/sculpturegardensequence"]
    paths = [data / entry["dir"] / name for name in entry["files"]]
    bracket = read_bracket(paths[::-1])
    assert (bracket.ordered_by, bracket.paths) == ("brightness", paths)


def test_real_false_times(data, brackets):
    entry = brackets["brackets/false_times/living_room2"]
    paths = [data / entry["dir"] / name for name in entry["files"]]
    assert "01.png against 00.png" in read_bracket(paths, times=entry["exposure_times"]).warnings[0]
    equal = brackets["brackets/dynamic/sculpturegardensequence"]
    assert read_bracket([data / equal["dir"] / name for name in equal["files"]], ev=equal["ev"]).warnings == ()
