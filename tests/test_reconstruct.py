"Reconstruction of real files, good and bad, and again."
import json

import pytest
import torch
from films import cut, film, song, tone
from tiny import tiny_vocoder

from clipsonic.core import Audio, InputError
from clipsonic.reconstruct import copy_synthesis, reconstruct
from clipsonic.video import read_audio
from clipsonic.vocoder import Vocoder
from conftest import naming


def test_any_media_file(tmp_path):
    home = tmp_path / "in"
    home.mkdir()
    film(home / "film.mp4", 1.0)
    film(home / "mute.mp4", 1.0, audio=None)
    film(home / "silent.mp4", 1.0, audio=Audio(torch.zeros(1, 16000), 16000))
    song(home / "song.mp3")
    tone(0.01).save(home / "-tiny.wav")
    tone(1.3, rate=44100, channels=2).save(home / "stereo.flac")
    cut(film(home / "torn.mp4", 3.0), 0.3)
    (home / "film.txt").write_text("what is in the film")
    result = reconstruct(home, tmp_path / "out", "griffin-lim", progress=False)
    assert sorted(p.name for p in (tmp_path / "out").glob("*.wav")) == ["-tiny.wav", "film.wav", "silent.wav",
                                                                        "song.wav", "stereo.wav"]
    for row in result.made:
        made = read_audio(tmp_path / "out" / (row.file.rsplit(".", 1)[0] + ".wav"))
        assert made.waveform.shape == read_audio(home / row.file).waveform.shape and made.sample_rate == 16000
    assert {(u.file, u.reason) for u in result.unused} >= {("mute.mp4", "no audio track"), ("film.txt", "duplicate")}
    assert {u.file for u in result.unused} == {"mute.mp4", "film.txt", "torn.mp4"}
    assert read_audio(tmp_path / "out" / "silent.wav").peak < 1e-3
    text = (tmp_path / "out" / "report.csv").read_text()
    assert text.count("\n") == 1 + 5 + 3 and "mute.mp4" in text


def test_it_goes_on_where_it_stopped(tmp_path, monkeypatch):
    home = tmp_path / "in"
    home.mkdir()
    for n in range(3): tone(0.5, 300 + 100 * n).save(home / f"{n}.wav")
    whole = reconstruct(home, tmp_path / "whole", "griffin-lim", progress=False)
    import clipsonic.reconstruct as module
    calls, real = [], module.copy_synthesis
    def dies(audio, vocoder):
        calls.append(audio)
        if len(calls) == 3: raise KeyboardInterrupt
        return real(audio, vocoder)
    monkeypatch.setattr(module, "copy_synthesis", dies)
    with pytest.raises(KeyboardInterrupt): reconstruct(home, tmp_path / "out", "griffin-lim", progress=False)
    monkeypatch.setattr(module, "copy_synthesis", real)
    again = reconstruct(home, tmp_path / "out", "griffin-lim", progress=False)
    assert [r.file for r in again.made] == [r.file for r in whole.made]
    for n in range(3):
        assert (tmp_path / "out" / f"{n}.wav").read_bytes() == (tmp_path / "whole" / f"{n}.wav").read_bytes()


def test_another_vocoders_folder_is_left_alone(tmp_path):
    tone(0.5).save(tmp_path / "a.wav")
    tiny_vocoder(tmp_path / "v")
    reconstruct(tmp_path / "a.wav", tmp_path / "out", tmp_path / "v", progress=False)
    before = (tmp_path / "out" / "a.wav").read_bytes()
    with pytest.raises(InputError, match=naming(tmp_path / "out", "vocoder", tmp_path / "v")):
        reconstruct(tmp_path / "a.wav", tmp_path / "out", "griffin-lim", progress=False)
    assert (tmp_path / "out" / "a.wav").read_bytes() == before
    assert json.loads((tmp_path / "out" / "reconstruct.json").read_text())["vocoder"].endswith("v")


def test_nothing_of_anyone_else_is_replaced(tmp_path, monkeypatch):
    home = tmp_path / "in"
    home.mkdir()
    tone(0.5).save(home / "a.wav")
    before = (home / "a.wav").read_bytes()
    for out in (home, tmp_path / "other"):
        out.mkdir(exist_ok=True)
        (out / "a.wav").write_bytes(before)
        with pytest.raises(InputError, match=naming(out / "a.wav", "folder")):
            reconstruct(home, out, "griffin-lim", progress=False)
        assert (out / "a.wav").read_bytes() == before and not (out / "reconstruct.json").exists()
    monkeypatch.chdir(home)
    # its own output is no source
    for _ in range(2):
        assert [r.file for r in reconstruct(".", "back", "griffin-lim", progress=False).made] == ["a.wav"]
    for name in ("reconstruct.json", "report.csv"):
        (home / "back" / name).write_text("[1]\n" * (1 + name.endswith("csv")))
        with pytest.raises(InputError, match=naming(f"back/{name}", "clipsonic reconstruct")):
            reconstruct(".", "back", "griffin-lim", progress=False)
        (home / "back" / "reconstruct.json").unlink(missing_ok=True)


def test_a_changed_original_is_made_again_and_others_stay(tmp_path):
    home = tmp_path / "in"
    home.mkdir()
    for name in "ab": tone(0.5).save(home / f"{name}.wav")
    first = reconstruct(home, tmp_path / "out", "griffin-lim", progress=False).made
    (home / "b.wav").unlink()
    tone(0.3, 900).save(home / "a.wav")
    (row,) = reconstruct(home, tmp_path / "out", "griffin-lim", progress=False).made
    assert row.seconds == 0.3 and read_audio(tmp_path / "out" / "a.wav").seconds == 0.3 and row.mel != first[0].mel
    assert "b.wav" in (tmp_path / "out" / "report.csv").read_text() and (tmp_path / "out" / "b.wav").exists()


def test_loud_and_broken_sounds(tmp_path):
    "A sound that comes back louder than 1 is measured as it came; one that holds a NaN is named."
    import numpy as np
    import soundfile
    home = tmp_path / "in"
    home.mkdir()
    square = 0.95 * torch.sign(torch.sin(2 * torch.pi * 150 * torch.arange(16000) / 16000))
    Audio(square[None], 16000).save(home / "square.wav")
    soundfile.write(home / "nan.wav", np.array([0.1, float("nan")] * 4000, np.float32), 16000, subtype="FLOAT")
    result = reconstruct(home, tmp_path / "out", "griffin-lim", progress=False)
    assert copy_synthesis(read_audio(home / "square.wav"), Vocoder()).peak > 1
    assert read_audio(tmp_path / "out" / "square.wav").peak <= 1
    assert result.made[0].mel < 0.1 and [(u.file, u.reason) for u in result.unused] == [("nan.wav", "not finite")]
    assert "not finite" in (tmp_path / "out" / "report.csv").read_text()


def test_bad_requests(tmp_path):
    tone(0.5).save(tmp_path / "a.wav")
    vocoder = Vocoder()
    with pytest.raises(InputError, match=naming(2, "channels")): copy_synthesis(tone(0.5, channels=2), vocoder)
    with pytest.raises(InputError, match=naming(44100, 16000)): copy_synthesis(tone(0.5, rate=44100), vocoder)
    for inputs, out, vocoder, says in (("none.wav", "out", "pocket", f"{tmp_path}/none.wav"),
                                       ("a.wav", "no/out", "pocket", f"{tmp_path}/no/out folder"),
                                       ("a.wav", "a.wav", "pocket", f"{tmp_path}/a.wav folder"),
                                       ("a.wav", "out", "bigvgun", "vocoder 'bigvgun'")):
        with pytest.raises(InputError, match=naming(*says.split())):
            reconstruct(tmp_path / inputs, tmp_path / out, vocoder, progress=False)


def test_vocoders_side_by_side(tmp_path):
    "Tones through two vocoders, classified by an untrained classifier: the rows of `vocoder_table`."
    import io
    import numpy as np
    import soundfile
    from clipsonic.mel import MelConfig
    from clipsonic.reconstruct import compare_vocoders, vocoder_table
    from clipsonic.scores import Classifier, ClassifierConfig, save_classifier
    from clipsonic.shards import make_sample, write_info, write_shard
    (tmp_path / "shards").mkdir()
    samples = []
    for n in range(4):
        sound = io.BytesIO()
        soundfile.write(sound, tone(1.0, 300 * (n + 1)).waveform[0].numpy(), 16000, format="FLAC", subtype="PCM_16")
        about = dict(id=str(n), file=f"{n}.mp4", start=0, seconds=1.0, times=[0], label=["low", "high"][n // 2])
        samples.append(make_sample(str(n), sound.getvalue(), np.eye(8)[:1], about))
    write_shard(tmp_path / "shards" / "clipsonic-000000.tar", samples)
    write_info(tmp_path / "shards", {"clipsonic-000000.tar": 4}, clip={"name": "none", "hash": ""}, dim=8,
               sample_rate=16000, frame_rate=1.0, total_seconds=4.0, labeled=4)
    config = ClassifierConfig(("high", "low"), MelConfig(hop_length=1024), width=4)
    save_classifier(tmp_path / "classifier", Classifier(config).eval())
    tiny_vocoder(tmp_path / "v")
    rows = compare_vocoders({"floor": "griffin-lim", "tiny": tmp_path / "v"}, tmp_path / "shards",
                            classifiers={"it": tmp_path / "classifier"}, out=tmp_path / "out.json", length=16384)
    assert list(rows) == ["original", "floor", "tiny"]
    assert rows["original"]["mel"]["mean"] == rows["original"]["stft"]["mean"] == 0
    assert all(rows[name]["stft"]["mean"] > 0 and rows[name]["it"]["n"] == 4 and rows[name]["hash"]
               for name in ("floor", "tiny"))
    table = vocoder_table(tmp_path / "out.json").data
    assert table.count("\n") == 4 and "| floor |" in table and "top-1, it" in table
    older = (tmp_path / "out.json").read_text().replace('"classifiers": ', '"listeners": ')
    (tmp_path / "older.json").write_text(older)
    assert vocoder_table(tmp_path / "older.json").data == table


@pytest.mark.long
@pytest.mark.data
def test_natural_videos_come_back(pocketav, tmp_path):
    result = reconstruct(pocketav / "real", tmp_path / "out", progress=False)
    assert len(result.made) == 22 and {u.file for u in result.unused} == {"real.csv"}
    assert sum(r.mel for r in result.made) / 22 < 0.25, result
