"""The loader of the golden values."""

from __future__ import annotations

import dataclasses

import golden
import pytest
import torch


def test_pictures_are_those_measured() -> None:
    """Every picture decodes to the array that the values came from."""
    for row in golden.rows("VIFp", "live_gray"):
        fused, bracket = row.fused, row.bracket
        assert fused.dtype == bracket.dtype == torch.uint8
        assert bracket.shape == (1, 1, *fused.shape[1:])


def test_another_picture_is_noticed() -> None:
    row = golden.rows("AG", "mefb_gray")[0]
    entry = golden._listing()[1][row.scene, row.method]
    with pytest.raises(AssertionError, match="decodes to other values"):
        golden._picture(golden.photographs() / "golden" / entry["fused"], "0" * 64)


def test_unknown_metric_is_noticed() -> None:
    with pytest.raises(AssertionError, match="no golden values"):
        golden.rows("AG", "unheard of")


def test_sources_are_chosen() -> None:
    row = next(row for row in golden.rows("MI", "lt_gray") if row.sources == (0, 2))
    every = dataclasses.replace(row, sources=()).bracket
    assert every.shape[1] == 3
    assert torch.equal(row.bracket, every[:, [0, 2]])
    assert not torch.equal(row.bracket, every[:, :2])


def test_crops_are_cut() -> None:
    row = golden.rows("FMI", "crop20_none")[0]
    whole = dataclasses.replace(row, crop=(slice(None), slice(None)))
    assert row.fused.shape == (1, 3, 20, 20)
    assert row.bracket.shape == (1, 2, 3, 20, 20)
    assert torch.equal(row.fused, whole.fused[..., *row.crop])


def test_target_is_what_is_measured() -> None:
    found = golden.rows("LPC-SI", "hassen_gray")
    assert {row.target for row in found} == {"fused", "source"}
    for row in found[:4]:
        assert torch.equal(row.image, row.fused) == (row.target == "fused")
