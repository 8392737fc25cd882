"The measurement of the gap, from shards with labels and without, and what it refuses."
import json

import pytest
import torch

from clipsonic.checkpoint import load_config
from clipsonic.core import InputError
from clipsonic.gap import linear_baselines, gap
from clipsonic.pipeline import pack
from clipsonic.scores import bootstrap_mean
from clipsonic.shards import synthetic_shards
from conftest import naming
from tiny import tiny_model, tiny_prior


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    "A tiny model with both priors, and shards in its CLIP's space: `labelled`, and `bare` without labels."
    home = tmp_path_factory.mktemp("gap")
    tiny_model(home)
    clip = load_config(home / "denoiser")["clip"]
    for name, seed in ("pd", 3), ("sd", 4): tiny_prior(home / name, clip, seed)
    pack(home / "clip", home / "denoiser", home / "vocoder", home / "bridged",
         priors={"pd": home / "pd", "sd": home / "sd"})
    for name, labels in ("labelled", True), ("bare", False):
        synthetic_shards(home / name, clips=12, dim=24, seconds=2.0, labels=labels)
        info = json.loads((home / name / "shards.json").read_text())
        (home / name / "shards.json").write_text(json.dumps(info | {"clip": clip}))
    return home


@pytest.mark.long
def test_the_report(home, tmp_path):
    found = gap(home / "labelled", model=home / "bridged", out=tmp_path / "gap.json", progress=False)
    assert found == json.loads((tmp_path / "gap.json").read_text())
    assert set(found["cosine"]) == set(found["retrieval"]) == {"zs", "pd", "sd", "mean shift", "ridge"}
    for row in found["cosine"].values(): assert row["low"] <= row["mean"] <= row["high"] and row["n"] == 12
    assert found["protocol"]["videos"] == 12 and found["protocol"]["clip"] == load_config(home / "denoiser")["clip"]
    again = gap(home / "labelled", model=home / "bridged", progress=False)
    assert again == found
    other = gap(home / "labelled", model=home / "bridged", seed=1, progress=False)
    assert other["cosine"]["pd"] != found["cosine"]["pd"]
    assert set(gap(home / "labelled", model=home / "model", progress=False)["cosine"]) == {"zs", "mean shift", "ridge"}


@pytest.mark.parametrize("header", [True, False])
def test_labels_from_an_index(home, tmp_path, header):
    "Of the rows of the split test; a clip without one is not measured."
    lines = [f"tone-{n},0,tone {n % 3},{'test' if n < 11 else 'train'}" for n in range(12)]
    (tmp_path / "labels.csv").write_text("\n".join((["id,start_seconds,label,split"] if header else []) + lines) + "\n")
    found = gap(home / "bare", tmp_path / "labels.csv", home / "model", progress=False)
    assert (found["protocol"]["videos"], found["protocol"]["labels"]) == (11, 3)


def test_what_cannot_be_measured(home, tmp_path):
    with pytest.raises(InputError, match=naming(tmp_path, "shards", "index")):
        gap(tmp_path, model=home / "model", progress=False)
    with pytest.raises(InputError, match=naming(home / "bare", 12, "label", "index")):
        gap(home / "bare", model=home / "model", progress=False)
    with pytest.raises(InputError, match=naming(home / "labelled", "'tiny-0'", "'pocket'")):
        gap(home / "labelled", progress=False)
    (tmp_path / "labels.csv").write_text("someone-else,0,dog,test\n")
    with pytest.raises(InputError, match=naming(tmp_path / "labels.csv", home / "bare")):
        gap(home / "bare", tmp_path / "labels.csv", home / "model", progress=False)
    (tmp_path / "few.csv").write_text("tone-1,0,dog,test\n")
    with pytest.raises(InputError, match=naming(home / "bare", 1, "ten")):
        gap(home / "bare", tmp_path / "few.csv", home / "model", progress=False)
    with pytest.raises(InputError, match=naming(tmp_path / "no/gap.json", "folder")):
        gap(home / "labelled", model=home / "model", out=tmp_path / "no" / "gap.json", progress=False)


def test_intervals_and_corrections_are_repeatable():
    values = torch.rand(50, generator=torch.Generator().manual_seed(0))
    assert bootstrap_mean(values) == bootstrap_mean(values) and bootstrap_mean(values).n == 50
    text, image = torch.randn(2, 20, 8, generator=torch.Generator().manual_seed(1))
    for each in linear_baselines(text, image).values(): torch.testing.assert_close(each.norm(dim=-1), torch.ones(20))
