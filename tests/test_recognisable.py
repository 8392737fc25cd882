"Rendered sounds are cached, for the same model and queries only."
from collections import Counter

import pytest
import torch
from PIL import Image

from clipsonic.core import InputError
from clipsonic.pipeline import Pipeline
from clipsonic.recognisable import read_labeled_prompts, render_cached
from conftest import naming


@pytest.fixture(scope="module")
def pipe(runs): return Pipeline.load(runs / "model", "cpu")


@pytest.mark.filterwarnings("ignore")
def test_cached_sounds(pipe, tmp_path):
    asked, file = ["dog", "rain"], tmp_path / "prompts.safetensors"
    first = render_cached(pipe, asked, "prompt", 3, "zs", file)
    assert first.shape == (2, 1, 64000) and torch.equal(render_cached(pipe, asked, "prompt", 3, "zs", file), first)
    assert torch.equal(render_cached(pipe, asked[1:], "prompt", 4, "zs"), first[1:])
    image = Image.new("RGB", (9, 9))
    for other in (["dog", "flute"], "prompt", 3, "zs"), (asked, "prompt", 4, "zs"), ([image], "image", 3, None):
        with pytest.raises(InputError, match=naming(file, "model", "queries")): render_cached(pipe, *other, file)


def test_prompts(tmp_path):
    (tmp_path / "p.csv").write_text("label,prompts\ndog barking,dog barking; woof; a hound\nrain,rain; a downpour\n")
    plain, other = read_labeled_prompts(tmp_path / "p.csv")
    assert plain == [("dog barking", "dog barking"), ("rain", "rain")]
    assert other == [("dog barking", "woof"), ("dog barking", "a hound"), ("rain", "a downpour")]
    (tmp_path / "q.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=naming(tmp_path / "q.csv", "columns", "label", "prompts", "'a,b'")):
        read_labeled_prompts(tmp_path / "q.csv")


def test_twenty_prompts_a_class():
    from pathlib import Path
    plain, other = read_labeled_prompts(Path(__file__).parents[1] / "nbs" / "prompts.csv")
    assert len(plain) == 30 and len({p for _, p in plain + other}) == 600
    assert Counter(label for label, _ in other) == {label: 19 for label, _ in plain}
