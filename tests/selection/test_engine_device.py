"""Products by torch give what products by NumPy give; on the CPU, so that it runs where there is no GPU."""

from __future__ import annotations

import numpy as np
import pytest

from thriftune.errors import StrategyError
from thriftune.selection.engine import facility
from thriftune.selection.engine.device import Rows
from thriftune.selection.engine.facility import facility_location
from thriftune.selection.engine.farthest import k_center

torch = pytest.importorskip("torch")
NONE = np.empty(0, np.int64)


def clusters(n=2500, d=48):
    rng = np.random.default_rng(3)
    centres = rng.standard_normal((60, d))
    return (centres[rng.integers(0, 60, n)] + rng.uniform(0.2, 0.9, (n, 1)) * rng.standard_normal((n, d))).astype("f4")


def ignore(amount):
    pass


@pytest.mark.parametrize("engine", ["exact", "dense", "neighbours"])
def test_facility_location(engine, monkeypatch):
    monkeypatch.setattr(facility, "_EDGES", 60)
    x, chosen = clusters(), np.array([4, 90])
    plain = facility_location(x, 700, gamma=0.2, chosen=chosen, engine=engine, advance=ignore)
    by_torch = facility_location(x, 700, gamma=0.2, chosen=chosen, engine=engine, device="cpu", advance=ignore)
    np.testing.assert_allclose(by_torch.gains, plain.gains, rtol=1e-4, atol=1e-4)
    assert by_torch.value == pytest.approx(plain.value, rel=1e-6)
    # Rows that gain alike may change places.
    assert np.mean(by_torch.rows == plain.rows) > 0.95
    assert by_torch.notes["device"] == "cpu"


def test_single_precision_is_meant_whatever_the_process_allows():
    x = clusters(64, 48)
    rows = Rows(x, "cpu")
    exact = x @ x.T
    torch.set_float32_matmul_precision("medium")
    try:
        np.testing.assert_allclose(rows.products(slice(None), slice(None)), exact, rtol=1e-4, atol=1e-3)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_k_center():
    x = clusters()
    for chosen in (NONE, np.array([4, 90])):
        plain = k_center(x, 900, chosen=chosen, start=7, advance=ignore)
        by_torch = k_center(x, 900, chosen=chosen, start=7, device="cpu", advance=ignore)
        np.testing.assert_array_equal(by_torch.rows, plain.rows)
        np.testing.assert_allclose(by_torch.distances, plain.distances)
        assert by_torch.radius == plain.radius


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_said():
    with pytest.raises(StrategyError, match="finds no GPU: use device=cpu"):
        k_center(clusters(50), 5, chosen=NONE, start=0, device="cuda", advance=ignore)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    x = clusters(20_000, 256)
    plain = k_center(x, 5000, chosen=NONE, start=7, advance=ignore)
    np.testing.assert_array_equal(
        k_center(x, 5000, chosen=NONE, start=7, device="cuda", advance=ignore).rows, plain.rows
    )
