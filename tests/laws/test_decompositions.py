"""Decompositions of matrices as good as singular: right where the first algorithm gives up, refused where none can be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nearsight.core.errors import NearsightError
from nearsight.models import decompositions
from nearsight.models.decompositions import singular_values, symmetric_eigen
from nearsight.models.statistics import Folds, Regression


def features(rank: int = 5) -> torch.Tensor:
    """[40, 12] of low rank, with columns that repeat and others that are 1e-150 of the rest."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, rank, generator=generator, dtype=torch.float64) @ torch.randn(
        rank, 9, generator=generator, dtype=torch.float64
    )
    return torch.cat([x, x[:, :2], 1e-150 * x[:, :1]], 1)


@pytest.fixture(params=[0, 1, 3])
def giving_up(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """So many algorithms that do not converge."""
    count = [request.param]

    def failing(true, error):  # type: ignore[no-untyped-def]
        def call(*arguments, **keys):  # type: ignore[no-untyped-def]
            if count[0] > 0:
                count[0] -= 1
                raise error("the algorithm failed to converge")
            return true(*arguments, **keys)

        return call

    monkeypatch.setattr(torch.linalg, "eigh", failing(torch.linalg.eigh, torch.linalg.LinAlgError))
    monkeypatch.setattr(torch.linalg, "svd", failing(torch.linalg.svd, torch.linalg.LinAlgError))
    monkeypatch.setattr(
        decompositions.scipy.linalg, "eigh", failing(decompositions.scipy.linalg.eigh, np.linalg.LinAlgError)
    )
    return request.param


def test_eigenvectors_of_a_singular_matrix(giving_up: int) -> None:
    gram = features().T @ features()
    values, vectors = symmetric_eigen(gram)
    scale = float(gram.abs().max())
    assert torch.allclose(vectors * values @ vectors.T, gram, atol=1e-12 * scale)
    assert torch.allclose(vectors.T @ vectors, torch.eye(12, dtype=torch.float64), atol=1e-12)
    assert bool((values.diff() >= 0).all()) and int((values > 1e-9 * scale).sum()) == 5


def test_singular_values_of_a_singular_matrix(giving_up: int) -> None:
    if giving_up > 1:
        pytest.skip("there are two algorithms")
    s, v = singular_values(features())
    assert torch.allclose(v.T * s.square() @ v, features().T @ features(), atol=1e-10)
    assert v.shape == (12, 12) and int((s > 1e-9 * s[0]).sum()) == 5


def test_a_ridge_fit_of_dependent_features_predicts(giving_up: int) -> None:
    x, truth = features(), torch.arange(12.0, dtype=torch.float64)[:, None]
    regression = Regression(Folds.of([0] * 4))
    for k in range(4):
        regression.add(k, x[10 * k : 10 * k + 10], x[10 * k : 10 * k + 10] @ truth)
    assert torch.allclose(x @ regression.solve().whole, x @ truth, atol=1e-4 * float((x @ truth).abs().max()))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e200])
def test_what_is_not_finite_is_one_line(bad: float) -> None:
    x = features()
    x[3, 3] = bad
    with pytest.raises(NearsightError, match="not finite"):
        symmetric_eigen(x.T @ x)
    regression = Regression(Folds.of([0]))
    regression.add(0, x, x[:, :1])
    with pytest.raises(NearsightError, match="not finite"):
        regression.solve()
