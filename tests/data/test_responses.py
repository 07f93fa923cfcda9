"""Camera responses: families, the empirical model, draws."""

import functools
import pickle

import numpy as np
import pytest
import torch
from photographs import photographs

from hdrops.data import (
    RESPONSE_FAMILIES,
    EmpiricalResponses,
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
from hdrops.io import InputError

GRID = torch.linspace(0, 1, 5001, dtype=torch.float64)
RESPONSES = [
    gamma_response,
    srgb_response,
    sigmoid_response,
    log_response,
    contrast_response,
    polynomial_response,
    functools.partial(table_response, table=torch.tensor([0.0, 0.6, 0.6, 1.0])),
]


def emor_text(count=3, samples=1024):
    """A file of the database's form: f0 = sqrt, deviations that vanish at the ends."""
    x = np.linspace(0, 1, samples)
    rows = {"E": x, "f0": np.sqrt(x)}
    for k in range(1, count + 1):
        rows[f"h({k})"] = np.sin(np.pi * k * x) / 30
    blocks = []
    for name, values in rows.items():
        # The sine is not quite 0 at 1.
        numbers = [f"{0.0 if abs(v) < 1e-9 else v:.6e}" for v in values]
        lines = ["   ".join(numbers[at : at + 4]) for at in range(0, samples, 4)]
        blocks.append(f"{name} = \n" + "\n".join(lines))
    return "\n".join(blocks) + "\n"


def assert_response(response):
    values = response(GRID)
    assert values[0] == 0
    assert float(values[-1]) == pytest.approx(1, abs=1e-12)
    assert float(values.max()) <= 1
    assert float(values.diff().min()) >= -1e-12


@pytest.mark.parametrize("response", RESPONSES, ids=lambda f: getattr(f, "__name__", "table"))
def test_runs_from_0_to_1_without_falling(response):
    assert_response(response)
    assert response(torch.tensor([-1.0, 2.0])).tolist() == pytest.approx([0.0, 1.0], abs=1e-6)
    single = response(torch.rand(2, 3, generator=torch.Generator().manual_seed(0)))
    assert single.dtype == torch.float32
    assert single.shape == (2, 3)
    with pytest.raises(TypeError, match="floating point"):
        response(torch.tensor([1]))


def test_values():
    half = torch.tensor([0.5], dtype=torch.float64)
    assert float(gamma_response(half, 0.5)) == pytest.approx(0.5**0.5)
    assert float(srgb_response(half)) == pytest.approx(0.7353570, abs=1e-7)  # IEC 61966-2-1
    assert float(srgb_response(half * 0.004)) == pytest.approx(12.92 * 0.002)
    assert float(sigmoid_response(half, a=0.6, n=0.9)) == pytest.approx(1.6 * 0.5**0.9 / (0.5**0.9 + 0.6))
    assert float(log_response(half, 9.0, 2.0)) == pytest.approx((np.log(5.5) / np.log(10)) ** 2)
    assert float(table_response(half, torch.tensor([0.0, 0.2, 0.3, 1.0]))) == pytest.approx(0.25)
    # The middle of the S stays where it is; beside it the odds are raised to the contrast.
    u = torch.tensor([0.5, 0.2], dtype=torch.float64)
    assert contrast_response(u, 2.0, 0.0, gamma=1.0).tolist() == pytest.approx([0.5, 0.04 / (0.04 + 0.64)])
    assert float(contrast_response(half, 1.0, 1.0, gamma=1.0)) == pytest.approx(1 / 3)


def test_polynomial_of_even_steps_is_the_power_law():
    values = polynomial_response(GRID, (0.25, 0.5, 0.75), gamma=0.5)
    assert torch.allclose(values, GRID.sqrt())
    cubic = polynomial_response(GRID, (0.1, 0.7), gamma=1.0)
    expected = 3 * GRID * (1 - GRID) ** 2 * 0.1 + 3 * GRID**2 * (1 - GRID) * 0.7 + GRID**3
    assert torch.allclose(cubic, expected)


@pytest.mark.parametrize(
    "call",
    [
        lambda: gamma_response(GRID, 0.0),
        lambda: gamma_response(GRID, float("nan")),
        lambda: sigmoid_response(GRID, a=-1.0),
        lambda: log_response(GRID, power=float("inf")),
        lambda: contrast_response(GRID, shift=float("nan")),
        lambda: polynomial_response(GRID, (0.5, 0.4)),
        lambda: polynomial_response(GRID, (0.5, 1.4)),
        lambda: table_response(GRID, torch.tensor([0.0, 0.7, 0.6, 1.0])),
        lambda: table_response(GRID, torch.tensor([0.1, 1.0])),
        lambda: table_response(GRID, torch.tensor([0, 1])),
        lambda: draw_response(np.random.default_rng(0), ["gama"]),
        lambda: draw_response(np.random.default_rng(0), []),
    ],
)
def test_refuses(call):
    with pytest.raises(ValueError, match=r"must|unknown family"):
        call()


@pytest.mark.parametrize("family", RESPONSE_FAMILIES)
def test_draws_are_responses_that_differ_and_repeat(family):
    middle = set()
    for seed in range(40):
        response = draw_response(np.random.default_rng(seed), [family])
        assert_response(response)
        again = draw_response(np.random.default_rng(seed), [family])
        assert torch.equal(pickle.loads(pickle.dumps(response))(GRID), again(GRID))
        middle.add(round(float(response(GRID[900])), 6))  # exposure 0.18
    assert len(middle) == (1 if family == "srgb" else 40)
    assert 0.15 < min(middle) <= max(middle) < 0.8


def test_families_are_drawn_by_their_weights():
    generator = np.random.default_rng(0)
    names = [getattr(draw_response(generator), "func", srgb_response).__name__ for _ in range(1200)]
    expected = {"gamma": 100, "srgb": 100, "sigmoid": 200, "log": 200, "contrast": 400, "polynomial": 200}
    assert expected.keys() == RESPONSE_FAMILIES.keys()
    for family, count in expected.items():
        assert names.count(f"{family}_response") == pytest.approx(count, abs=5 * count**0.5)
    pair = [getattr(draw_response(generator, ["srgb", "log"]), "func", srgb_response) for _ in range(300)]
    assert pair.count(srgb_response) == pytest.approx(100, abs=45)


def test_emor(tmp_path):
    file = tmp_path / "emor.txt"
    file.write_text(emor_text())
    model = read_emor(file)
    assert model.basis.shape == (3, 1024)
    assert torch.allclose(model.mean, torch.linspace(0, 1, 1024, dtype=torch.float64).sqrt(), atol=1e-6)
    small = model.curve([0.5])
    assert torch.allclose(small, model.mean + 0.5 * model.basis[0])
    # A curve that would fall is drawn towards the mean, but not all the way.
    large = model.curve([0.0, 0.0, 40.0])
    assert float(large.diff().min()) >= 0
    assert float((large - model.mean).abs().max()) > 0.02
    for seed in range(40):
        assert_response(model.draw(np.random.default_rng(seed)))
    both = [draw_response(np.random.default_rng(seed), ["srgb"], model) for seed in range(40)]
    assert 1 < sum(response is srgb_response for response in both) < 20
    assert draw_response(np.random.default_rng(0), [], model).func is table_response
    for wrong in ([1.0] * 4, [float("nan")]):
        with pytest.raises(ValueError, match="at most 3 finite numbers"):
            model.curve(wrong)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "does not hold E, f0"),
        (emor_text(count=0), "does not hold E, f0"),
        (emor_text().replace("h(2)", "h(4)"), "does not hold E, f0"),
        (emor_text()[:-2000], "numbers of h"),
        (emor_text().replace("e-01", "e-0x", 1), "damaged"),
        (emor_text().replace("f0 = \n0.0", "f0 = \n2.0"), "does not rise"),
        (emor_text(samples=512), "512 numbers of E"),
    ],
)
def test_emor_refuses_other_files(tmp_path, text, reason):
    file = tmp_path / "emor.txt"
    file.write_text(text)
    with pytest.raises(InputError, match=reason):
        read_emor(file)


def test_emor_refuses_what_is_no_text(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read_emor(tmp_path / "absent.txt")
    file = tmp_path / "image.png"
    file.write_bytes(bytes(range(256)))
    with pytest.raises(InputError, match="no text file"):
        read_emor(file)


def test_real_emor():
    file = photographs() / "crf" / "emor.txt"
    model = read_emor(file)
    assert isinstance(model, EmpiricalResponses)
    gram = model.basis @ model.basis.T
    assert torch.allclose(gram, torch.eye(25, dtype=torch.float64), atol=1e-4)
    values = []
    for seed in range(100):
        response = model.draw(np.random.default_rng(seed))
        assert_response(response)
        values.append(float(response(torch.tensor(0.18))))
    assert 0.05 < np.std(values) < 0.12  # as wide as display gammas of 1.6 to 2.9
