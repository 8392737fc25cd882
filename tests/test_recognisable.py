"The generated sets are rendered once, for one model and its queries, and the measurement reads them."
import json
import shutil
from collections import Counter

import pytest
import torch
from PIL import Image

from clipsonic.core import InputError
from clipsonic.mel import MelConfig
from clipsonic.pipeline import Pipeline
from clipsonic.recognisable import generated_sets, measure_recognisability, read_labeled_prompts
from clipsonic.scores import Classifier, ClassifierConfig, save_classifier
from clipsonic.shards import all_clips, synthetic_shards
from clipsonic.video import read_frames, write_video
from conftest import naming


@pytest.fixture(scope="module")
def pipe(runs): return Pipeline.load(runs / "model", "cpu")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    "Prompts of two classes, and a video."
    home = tmp_path_factory.mktemp("recognisable")
    (home / "prompts.csv").write_text("label,prompts\ndog,dog; a dog\nrain,rain\n")
    write_video(home / "a.mp4", [Image.new("RGB", (64, 64), color) for color in ("red", "green", "blue")], frame_rate=1)
    return home

def sets(pipe, home, renders, prompts="prompts.csv", videos=("a.mp4",)):
    videos = [home / video for video in videos]
    return list(generated_sets(pipe, videos, ["dog"] * len(videos), home / prompts, renders, progress=False))

@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_sets_are_rendered_once_and_gone_on_with(pipe, home, tmp_path):
    renders = tmp_path / "renders"
    first = sets(pipe, home, renders)
    assert [(name, tuple(sounds.shape), labels) for name, sounds, labels in first] == [
        ("prompts, ZS", (3, 1, 64000), ["dog", "rain", "dog"]), ("photos, IQ", (1, 1, 64000), ["dog"])]
    middle = read_frames(home / "a.mp4")[1][1]
    for sound, query, seed in ((first[0][1][2], {"prompt": "a dog", "system": "zs"}, 2),
                               (first[1][1][0], {"image": middle}, 2000)):
        assert (sound - pipe.generate(**query, seed=seed, progress=False).waveform).abs().max() <= 2**-15
    files = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in renders.glob("*/*.wav")}
    lost = renders / "prompts-zs" / "0001.wav"
    lost.unlink()
    again = sets(pipe, home, renders)
    assert all(torch.equal(one[1], other[1]) for one, other in zip(first, again))
    assert lost.read_bytes() == files.pop(lost)[0]
    assert all(file.stat().st_mtime_ns == stamp for file, (_, stamp) in files.items())

@pytest.mark.filterwarnings("ignore")
def test_other_queries_go_into_another_folder(pipe, home, tmp_path):
    (home / "others.csv").write_text("label,prompts\ndog,dog; a hound\nrain,rain\n")
    shutil.copy(home / "a.mp4", home / "b.mp4")
    sets(pipe, home, tmp_path / "renders")
    for other in {"prompts": "others.csv"}, {"videos": ["b.mp4"]}, {"videos": []}:
        with pytest.raises(InputError, match=naming(tmp_path / "renders", "protocol", "clips")):
            sets(pipe, home, tmp_path / "renders", **other)

@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_the_measurement(runs, tmp_path):
    synthetic_shards(tmp_path / "shards", clips=8, dim=24, seconds=1.0, labels=True)
    clips = list(all_clips(tmp_path / "shards", labels=True))
    classes = sorted({clip["label"] for clip in clips})
    save_classifier(tmp_path / "classifier", Classifier(ClassifierConfig(tuple(classes), MelConfig(), width=4)).eval())
    for clip in clips[::8]: write_video(tmp_path / clip["file"], [Image.new("RGB", (64, 64), "red")] * 2, frame_rate=1)
    (tmp_path / "prompts.csv").write_text(f"label,prompts\n{classes[0]},{classes[0]}; a tone\n")
    parts = {"classifier": tmp_path / "classifier", "videos": tmp_path, "prompts": tmp_path / "prompts.csv",
             "renders": tmp_path / "renders"}
    shards, out = tmp_path / "shards", tmp_path / "out.json"
    rows = measure_recognisability(runs / "model", train=shards, test=shards, out=out, every=8, **parts)
    assert {name: row["n"] for name, row in rows.items()} == {
        "real": 8, "mel and back": 8, "prompts, ZS": 2, "photos, IQ": 1}
    assert json.loads(out.read_text())["rows"]["real"]["top1"] == rows["real"]["top1"]
    assert rows["real"]["nearest"] == pytest.approx(1)  # the same clips as in training here
    with pytest.raises(InputError, match=naming(tmp_path / "no" / "out.json", "folder")):
        measure_recognisability(runs / "model", train=shards, test=shards, out=tmp_path / "no" / "out.json", **parts)


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
