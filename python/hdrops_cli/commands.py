"""Every command with its options: the surface of the command line on one page."""

from __future__ import annotations

import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from hdrops_cli.report import OneLineErrors, errors_reported

app = typer.Typer(
    name="hdrops",
    help="Multi-exposure imaging: fuse and merge brackets, interpolate exposures, evaluate results, train systems.",
    cls=OneLineErrors,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Out = Annotated[Path, typer.Option("-o", "--out", help="Picture to write; its ending chooses the format.")]
Times = Annotated[
    str | None,
    typer.Option(help="Exposure times in seconds, one per image in their order: 1/60,1/15,1/4."),
]
Ev = Annotated[str | None, typer.Option(help="Relative exposures in stops, one per image in their order: -2,0,2.")]
ImfOnly = Annotated[
    bool, typer.Option("--imf-only", help="Interpolate by intensity mapping functions alone, without the network.")
]
Weights = Annotated[
    Path | None, typer.Option(help="Folder of a trained network of the method, instead of the one that comes along.")
]
Reference = Annotated[
    str,
    typer.Option(
        help="Number of the image, from 1 as they are given, whose moment and exposure the result has; auto takes the "
        "one with the fewest pixels that are too bright or too dark, or the one of middle brightness for a network "
        "that learnt from such."
    ),
]
Tile = Annotated[
    int | None,
    typer.Option(min=1, help="Pixels a side that the network computes at once; otherwise what memory is free for."),
]
Quality = Annotated[int, typer.Option(min=1, max=100, help="Quality of a JPEG.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def _finite(value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number")
    return value


def _exponent(measure: str) -> Any:
    return typer.Option(min=0, callback=_finite, help=f"Weight exponent of {measure}.")


class Method(StrEnum):
    mertens = "mertens"
    interpolate = "interpolate"
    hyperp_mb = "hyperp-mb"


class Align(StrEnum):
    none = "none"
    homography = "homography"
    affine = "affine"
    shift = "shift"
    best_effort = "best-effort"


class Merging(StrEnum):
    weighted = "weighted"
    emvnet = "emvnet"


class Published(StrEnum):
    densefuse = "densefuse"
    vgg16 = "vgg16"
    vgg19 = "vgg19"


class Format(StrEnum):
    png = "png"
    tif = "tif"
    jpg = "jpg"
    exr = "exr"


class Correction(StrEnum):
    none = "none"
    exposure = "exposure"
    response = "response"


class Bits(StrEnum):
    eight = "8"
    sixteen = "16"


def _check_options(network: dict[str, bool], exponents: dict[str, float], method: Method) -> None:
    """Options of one method say nothing to another."""
    from hdrops.io import InputError

    of = {"--imf-only": [Method.interpolate], "--weights": [Method.interpolate, Method.hyperp_mb]}
    for option in (name for name, given in network.items() if given):
        if method not in of[option]:
            raise InputError(f"{option} belongs to --method {' or '.join(of[option])}; add it")
    if method == Method.hyperp_mb and any(value != 1.0 for value in exponents.values()):
        raise InputError(f"{', '.join(exponents)} weigh exposure fusion; leave them out with --method {method}")


@app.command()
def fuse(
    images: Annotated[
        list[Path],
        typer.Argument(help="Images of the bracket, or a folder of them; with --recursive, folders of brackets."),
    ],
    out: Annotated[
        Path,
        typer.Option("-o", "--out", help="Picture to write, in the format of its ending; with --recursive, a folder."),
    ],
    method: Annotated[
        Method,
        typer.Option(
            help="mertens; interpolate: insert interpolated exposures before; hyperp-mb: fuse lightness by a network."
        ),
    ] = Method.mertens,
    imf_only: ImfOnly = False,
    weights: Weights = None,
    align: Annotated[
        Align | None,
        typer.Option(
            help="Of frames from the hand: homography (default of hyperp-mb), affine, shift, none; or best-effort: "
            "homography, and frames that cannot be aligned stay as they are."
        ),
    ] = None,
    times: Times = None,
    ev: Ev = None,
    contrast: Annotated[float, _exponent("local contrast")] = 1.0,
    saturation: Annotated[
        float, typer.Option(min=0, callback=_finite, help="Weight exponent of colour saturation.")
    ] = 1.0,
    exposedness: Annotated[
        float, typer.Option(min=0, callback=_finite, help="Weight exponent of medium brightness.")
    ] = 1.0,
    quality: Quality = 95,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Fuse every bracket in the folders.")] = False,
    per_set: Annotated[
        int | None,
        typer.Option(min=2, help="Images per bracket, in the order of their names; otherwise it is found out."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print how the images would be grouped.")] = False,
    suffix: Annotated[str, typer.Option(help="What results are named, after the first image's name.")] = "_fused",
    format: Annotated[
        Format | None, typer.Option(help="Of the results: png unless stated, exr for floating-point images.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite results that exist already.")] = False,
    debug: Debug = False,
) -> None:
    """Fuse a bracket into one well-exposed picture.

    With --recursive, find the brackets in folders by time of capture, exposure and brightness, and write a picture
    of each into the folder that -o names, under the same subfolders and named after the first image. Then, --times
    or --ev hold for each bracket and state the number of its images. Single images are left out. The options from
    --recursive on belong to it.

    Exit code: 0 if all went well, 2 on bad input or if nothing could be fused; with --recursive 1 if some brackets
    were refused or failed, which are listed with their reasons.
    """
    with errors_reported(debug):
        _check_options(
            {"--imf-only": imf_only, "--weights": weights is not None},
            {"--contrast": contrast, "--saturation": saturation, "--exposedness": exposedness},
            method,
        )
        from hdrops_cli.align import default_of

        chosen = align or default_of(method)
        if recursive:
            from hdrops_cli.folders import run as run_folders

            code = run_folders(
                images,
                out,
                per_set,
                dry_run,
                suffix,
                format,
                force,
                method,
                imf_only,
                weights,
                chosen,
                times,
                ev,
                quality,
                contrast=contrast,
                saturation=saturation,
                exposedness=exposedness,
            )
            raise typer.Exit(code)
        if per_set is not None or dry_run or suffix != "_fused" or format is not None or force:
            from hdrops.io import InputError

            raise InputError("--per-set, --dry-run, --suffix, --format and --force belong to --recursive; add it")

        from hdrops_cli.fuse import run

        run(
            images,
            out,
            method,
            imf_only,
            weights,
            chosen,
            times,
            ev,
            quality,
            contrast=contrast,
            saturation=saturation,
            exposedness=exposedness,
        )


@app.command()
def interpolate(
    dark: Annotated[Path, typer.Argument(help="One exposure.")],
    bright: Annotated[Path, typer.Argument(help="Another exposure; the darker one is found by exposure.")],
    out: Out,
    steps: Annotated[
        int,
        typer.Option(
            min=1, max=64, help="Exposures to insert, evenly in stops; several are numbered from dark to bright."
        ),
    ] = 1,
    imf_only: ImfOnly = False,
    weights: Weights = None,
    times: Times = None,
    ev: Ev = None,
    quality: Quality = 95,
    debug: Debug = False,
) -> None:
    """Compute the exposure halfway between two, or several in between."""
    with errors_reported(debug):
        from hdrops_cli.interpolate import run

        run(dark, bright, out, steps, imf_only, weights, times, ev, quality)


@app.command()
def merge(
    images: Annotated[list[Path], typer.Argument(help="Images of the bracket, or a folder of them.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Linear light to write, .exr or .hdr.")],
    method: Annotated[
        Merging,
        typer.Option(
            help="weighted: the mean of a scene without motion, by exposure times; emvnet: by a network, which needs "
            "no times and allows motion."
        ),
    ] = Merging.weighted,
    weights: Annotated[Path | None, typer.Option(help="Folder of a trained EMVNet for RGB images.")] = None,
    reference: Reference = "auto",
    tile: Tile = None,
    gamma: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            max=10,
            callback=_finite,
            help="Light is a code to this power; otherwise sRGB for weighted, and 2.2 for emvnet.",
        ),
    ] = None,
    align: Annotated[
        Align,
        typer.Option(
            help="Of frames from the hand: none, homography, affine, shift; or best-effort: homography, and frames "
            "that cannot be aligned stay as they are."
        ),
    ] = Align.none,
    times: Times = None,
    ev: Ev = None,
    debug: Debug = False,
) -> None:
    """Merge a bracket into linear light beyond the range of its frames.

    The result has the colours of the frames and the exposure of the reference: 1 is where that is just white. Camera
    RAW, OpenEXR and Radiance frames hold linear light, which a network is given as codes of --gamma.
    """
    with errors_reported(debug):
        from hdrops_cli.merge import run

        run(images, out, method, weights, reference, tile, gamma, align, times, ev)


@app.command()
def develop(
    images: Annotated[list[Path], typer.Argument(help="Camera RAW frames of a scene, or a folder of them.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Picture to write: .png or .tif of 16 bits, or .jpg.")],
    weights: Annotated[Path, typer.Option(help="Folder of an EMVNet trained from raw frames to RGB (preset isp).")],
    reference: Reference = "auto",
    tile: Tile = None,
    quality: Quality = 95,
    debug: Debug = False,
) -> None:
    """Develop several camera RAW frames into one picture by a network.

    It is given the sensor's planes R, Gr, Gb and B, whatever the Bayer pattern, from the black to the white level and
    without white balance; exposure times are not needed. The picture, sRGB, is turned upright.
    """
    with errors_reported(debug):
        from hdrops_cli.develop import run

        run(images, out, weights, reference, tile, quality)


@app.command()
def evaluate(
    results: Annotated[
        list[str],
        typer.Argument(
            metavar="RESULT",
            help="A folder of pictures for each method, or a picture; NAME=RESULT names the method otherwise.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Report to write, .html; the values go into a .csv beside it.")
    ],
    sources: Annotated[
        Path | None, typer.Option(help="Folder of the brackets that the results were fused from.")
    ] = None,
    reference: Annotated[Path | None, typer.Option(help="Folder of the true pictures, of the results' names.")] = None,
    metrics: Annotated[
        str | None, typer.Option(help="Names such as ag,qabf,mef_ssim; or fast, or all. Otherwise those of the field.")
    ] = None,
    per_scene: Annotated[bool, typer.Option("--per-scene", help="Print the values of every scene.")] = False,
    suffix: Annotated[
        str, typer.Option(help="What the names of results may have after that of their scene.")
    ] = "_fused",
    per_set: Annotated[
        int | None,
        typer.Option(min=2, help="Images per bracket, where a folder holds several; otherwise it is found out."),
    ] = None,
    display_peak: Annotated[
        float,
        typer.Option(
            min=0.005, max=10000, callback=_finite, help="cd/m² of a float reference's largest value, for PQ and PU21."
        ),
    ] = 1000.0,
    correct: Annotated[
        Correction, typer.Option(help="What float results are freed from before: a wrong exposure or response.")
    ] = Correction.none,
    jobs: Annotated[
        int | None, typer.Option(min=1, max=256, help="Scenes at a time; as many as torch has threads otherwise.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Measure results against their sources or references, and write a report.

    With --sources, a result a/x.png or a/x_fused.png belongs to the bracket in the folder a/x, else to the one in a
    that begins with the image x, as fuse --recursive names it, else, if it is the only result in a, to all images of a.
    With --reference, to the picture a/x of any format. Methods are compared over the scenes that all of them have.
    Pictures of 8 and of 16 bits may be mixed: both are taken as values in [0, 1], and that is said.

    Exit code: 0 if all went well, 2 on bad input or if nothing could be evaluated, 1 if some pictures failed, which
    are listed with their reasons.
    """
    with errors_reported(debug):
        from hdrops_cli.evaluate import run

        code = run(
            results,
            out,
            sources,
            reference,
            metrics,
            per_scene,
            suffix,
            per_set,
            display_peak,
            correct,
            jobs,
        )
        raise typer.Exit(code)


@app.command()
def train(
    system: Annotated[str | None, typer.Argument(help="What to train; without it, the systems are listed.")] = None,
    preset: Annotated[str | None, typer.Option(help="A configuration of the system, by its name.")] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="A .toml or .json file with keys of the configuration, over those of the preset."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One more key, such as optimizer.lr=1e-3; may be repeated."),
    ] = None,
    data: Annotated[
        list[Path] | None, typer.Option(help="Folder of training images (the key data.folders); may be repeated.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder of the run: weights, checkpoints, logs, pictures.")
    ] = None,
    show_config: Annotated[
        bool, typer.Option("--show-config", help="Print the configuration that results, with comments, and stop.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Never resume: a folder that holds a run already is an error.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="With --fresh: remove that run.")] = False,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Resume a run of another configuration with this one.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Train a system, or go on with a run that was interrupted.

    The same command resumes: a folder that holds a run of the same configuration goes on from its last checkpoint, and
    ends as it would have without the interruption. Ctrl-C ends a run after the step under way, with a checkpoint.

    Several processes: torchrun --nproc-per-node 2 -m hdrops_cli.main train ...

    Exit code: 0 if all steps are done, 2 on bad input, 1 if the training cannot go on, 130 or 143 if it was
    interrupted.
    """
    with errors_reported(debug):
        from hdrops_cli.train import run

        code = run(
            system, preset, config, settings or [], data or [], out, show_config, fresh, force, accept_changes, debug
        )
        raise typer.Exit(code)


@app.command()
def convert(
    network: Annotated[Published, typer.Argument(help="Whose checkpoint it is.")],
    checkpoint: Annotated[Path, typer.Argument(help="File of torch.save or safetensors with tensors by name.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to write; for vgg16 and vgg19 a .safetensors file.")],
    debug: Debug = False,
) -> None:
    """Turn a checkpoint that its authors have published into weights of hdrops.

    densefuse: grey or RGB; then hdrops fuse --method hyperp-mb --weights FOLDER fuses with it.

    vgg16, vgg19: torchvision's, without batch normalisation; the convolutions go into one .safetensors file, for
    perceptual losses.
    """
    with errors_reported(debug):
        from hdrops_cli.convert import run

        run(network, checkpoint, out)


@app.command()
def info(
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    debug: Debug = False,
) -> None:
    """Show versions, the processor's level, and what serves each operator."""
    with errors_reported(debug):
        from hdrops_cli.info import run

        run(json)


@app.command()
def sample(
    folder: Annotated[Path, typer.Argument(help="Folder to write to; it is created.")],
    exposures: Annotated[int, typer.Option(min=1, max=99, help="Number of images.")] = 5,
    step: Annotated[float, typer.Option(help="Stops (EV) between neighbours.")] = 2.0,
    size: Annotated[str, typer.Option(help="Width x height in pixels.")] = "1200x800",
    bits: Annotated[Bits, typer.Option(help="8 writes JPEG, 16 writes TIFF.")] = Bits.eight,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of the textures and the noise.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing files.")] = False,
    debug: Debug = False,
) -> None:
    """Render a bracket of a synthetic room at sunset, with EXIF exposure times."""
    with errors_reported(debug):
        from hdrops_cli.sample import run

        run(folder, exposures, step, size, int(bits), seed, force)
