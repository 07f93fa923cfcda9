"""hdrops fuse --method hyperp-mb, --align, and hdrops convert."""

import re

import pytest
import torch

pytest.importorskip("cv2", reason="alignment needs OpenCV")

import hdrops as package
from hdrops.align import align_bracket
from hdrops.data import sample_bracket
from hdrops.io import read_image, write_image
from hdrops.models import HyperPMB, HyperPMBConfig


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    HyperPMB(HyperPMBConfig.preset("tiny")).save_pretrained(tmp_path / "weights")
    return tmp_path / "weights"


@pytest.fixture
def handheld(tmp_path):
    """Three frames of a rendered room, the first one shifted."""
    images = sample_bracket(240, 360, exposures=3, step=1.5)[0]
    moved = torch.stack([images[0].roll((5, -7), (1, 2)), images[1], images[2]])[:, :, 10:-10, 10:-10]
    folder = tmp_path / "handheld"
    folder.mkdir()
    for k, image in enumerate(moved):
        write_image(folder / f"{k}.png", image)
    return folder, moved.contiguous()


@pytest.fixture
def hopeless(tmp_path):
    """Two frames that have nothing in common."""
    generator = torch.Generator().manual_seed(0)
    folder = tmp_path / "hopeless"
    folder.mkdir()
    for k, gain in enumerate((60, 255)):
        write_image(folder / f"{k}.png", (torch.rand(3, 120, 160, generator=generator) * gain).to(torch.uint8))
    return folder


@pytest.mark.parametrize("bits", [8, 16])
def test_fuses_by_the_network(hdrops, tmp_path, request, weights, bits):
    paths = request.getfixturevalue(f"frames{bits}")
    images = request.getfixturevalue(f"bracket{bits}")[0][None]
    out = tmp_path / "out.png"
    code, stdout, _ = hdrops(
        "fuse", *paths, "-o", out, "--method", "hyperp-mb", "--weights", weights, "--align", "none"
    )
    assert code == 0
    expected = HyperPMB.from_pretrained(weights).fuse(images)[0]
    result = read_image(out)
    assert result.bits == bits
    assert torch.equal(result.pixels.to(torch.int32), expected.to(torch.int32))
    assert "hyperp-mb" in stdout
    assert "aligned" not in stdout


def test_the_network_aligns_first(hdrops, tmp_path, handheld, weights):
    folder, images = handheld
    out = tmp_path / "out.png"
    code, stdout, _ = hdrops("fuse", folder, "-o", out, "--method", "hyperp-mb", "--weights", weights)
    assert code == 0
    done = align_bracket(images)
    assert re.search(rf", aligned \d+\.\d\d s \(confidence {done.confidence.min():.2f}\)", stdout)
    assert done.images.shape[-2:] != images.shape[-2:]
    assert torch.equal(read_image(out).pixels, HyperPMB.from_pretrained(weights).fuse(done.images[None])[0])


@pytest.mark.parametrize("method", ["homography", "affine", "shift", "best-effort"])
def test_other_methods_align_when_asked(hdrops, tmp_path, handheld, method):
    folder, images = handheld
    out = tmp_path / "out.png"
    assert hdrops("fuse", folder, "-o", out, "--align", method).code == 0
    done = align_bracket(images, "homography" if method == "best-effort" else method)
    assert torch.equal(read_image(out).pixels, package.exposure_fusion(done.images[None])[0])
    assert hdrops("fuse", folder, "-o", out).code == 0
    assert torch.equal(read_image(out).pixels, package.exposure_fusion(images[None])[0])


def test_a_failed_alignment_is_said(hdrops, tmp_path, hopeless):
    out = tmp_path / "out.png"
    code, _, stderr = hdrops("fuse", hopeless, "-o", out, "--align", "homography")
    assert code == 2
    message = stderr.strip().splitlines()[-1]
    assert message.startswith("error: cannot align ")
    assert "take --align best-effort to fuse such frames as they are, or --align none" in message
    assert not out.exists()
    code, stdout, stderr = hdrops("fuse", hopeless, "-o", out, "--align", "best-effort")
    assert code == 0
    assert re.search(r", aligned \d+\.\d\d s \(no frame\)", stdout)
    assert "is fused as it is, for it cannot be aligned: " in stderr
    images = torch.stack([read_image(hopeless / f"{k}.png").pixels for k in range(2)])
    assert torch.equal(read_image(out).pixels, package.exposure_fusion(images[None])[0])


def test_folders_are_aligned_too(hdrops, tmp_path, handheld, hopeless):
    places = [handheld[0], hopeless]
    options = ["--recursive", "--ev", "0,2", "--per-set", 2]
    (handheld[0] / "2.png").unlink()
    code, _, stderr = hdrops("fuse", *places, "-o", tmp_path / "out", *options, "--align", "homography")
    assert code == 1
    assert "failed: " in stderr
    assert "cannot align" in stderr
    written = list((tmp_path / "out").rglob("*.png"))
    assert [path.parent.name for path in written] == ["handheld"]
    expected = package.exposure_fusion(align_bracket(handheld[1][:2]).images[None])[0]
    assert torch.equal(read_image(written[0]).pixels, expected)
    code, _, stderr = hdrops("fuse", *places, "-o", tmp_path / "more", *options, "--align", "best-effort")
    assert code == 0
    assert "is fused as it is" in stderr


def test_a_published_checkpoint_fuses(hdrops, tmp_path, frames8, bracket8):
    from hdrops.convert.densefuse import NAMES

    torch.manual_seed(0)
    network = HyperPMB(HyperPMBConfig.preset("densefuse", channels=3)).eval()
    state = network.state_dict()
    torch.save({theirs: state[ours] for theirs, ours in NAMES.items()}, tmp_path / "densefuse.model")
    code, stdout, _ = hdrops("convert", "densefuse", tmp_path / "densefuse.model", "-o", tmp_path / "converted")
    assert code == 0
    assert "3 channels" in stdout
    out = tmp_path / "out.png"
    options = ["--method", "hyperp-mb", "--weights", tmp_path / "converted", "--align", "none"]
    assert hdrops("fuse", *frames8, "-o", out, *options).code == 0
    assert torch.equal(read_image(out).pixels, network.fuse(bracket8[0][None])[0])


def test_a_published_vgg_becomes_features(hdrops, tmp_path):
    from hdrops.nn import VGGFeatures, vgg_layers

    with torch.device("meta"):
        shapes = vgg_layers("vgg16").state_dict()
    state = {f"features.{name}": torch.tensor(k / 64).expand(t.shape) for k, (name, t) in enumerate(shapes.items())}
    torch.save(state | {"classifier.6.bias": torch.zeros(10)}, tmp_path / "vgg16.pth")
    out = tmp_path / "vgg16.safetensors"
    code, stdout, _ = hdrops("convert", "vgg16", tmp_path / "vgg16.pth", "-o", out)
    assert code == 0
    assert "vgg16, 14,714,688 parameters, 3 channels" in stdout
    found = VGGFeatures.from_pretrained(out, "vgg16").state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in found.items())
    code, _, stderr = hdrops("convert", "vgg16", tmp_path / "vgg16.pth", "-o", tmp_path / "folder")
    assert code == 2
    assert "folder must end in .safetensors" in stderr
    assert "Traceback" not in stderr
    assert {path.name for path in tmp_path.iterdir()} == {"vgg16.pth", "vgg16.safetensors"}


def test_checkpoints_that_cannot_be_converted(hdrops, tmp_path):
    (tmp_path / "damaged.pt").write_bytes(b"nothing")
    for arguments, words in (
        (["densefuse", tmp_path / "damaged.pt"], "is no checkpoint of tensors"),
        (["densefuse", tmp_path / "none.pt"], "No such file"),
        (["other", tmp_path / "damaged.pt"], "densefuse"),
    ):
        code, _, stderr = hdrops("convert", *arguments, "-o", tmp_path / "out")
        assert code == 2
        assert words in stderr
        assert "Traceback" not in stderr
    assert not (tmp_path / "out").exists()
