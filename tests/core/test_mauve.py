"""MAUVE by its package: alike sets, apart sets, and a message without the package."""

import sys

import pytest
import torch

from core.metrics.mauve import MissingMauve, mauve_score


def test_alike_is_near_1_and_apart_near_0() -> None:
    pytest.importorskip("mauve")
    source = torch.Generator().manual_seed(0)
    one, other, far = (torch.randn(300, 5, generator=source) + shift for shift in (0, 0, 20))
    assert mauve_score(one, other) > 0.9
    assert mauve_score(far, other) < 0.1
    assert mauve_score(one, other) == mauve_score(one, other)


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mauve", None)
    with pytest.raises(MissingMauve, match="pip install 'trillium-lm\\[mauve\\]'"):
        mauve_score(torch.ones(2, 2), torch.ones(2, 2))
