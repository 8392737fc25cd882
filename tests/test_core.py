"Audio, whole files and noise streams at their edges: odd sounds, full disks, kills, seeds."
import signal
import subprocess
import sys
import warnings

import numpy as np
import pytest
import soundfile
import torch

from clipsonic.core import (Audio, ClipsonicError, InputError, clip_generators, pick_device, randn_per_clip, read_csv,
                            atomic_file, atomic_folder)
from conftest import naming

def tone(seconds=1., rate=16000, channels=1):
    return Audio(0.5 * torch.sin(torch.arange(int(seconds * rate)) * 0.3).expand(channels, -1), rate)

def run(code, folder):
    "The code in a process of its own, in `folder`."
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)

@pytest.mark.parametrize("waveform, says", [
    (torch.zeros(100), "(100,)"), (torch.zeros(1, 1, 100), "(1, 1, 100)"), (torch.zeros(1, 0), "(1, 0)"),
    (torch.zeros(0, 9), "(0, 9)"),
    (torch.zeros(1, 9, dtype=torch.int16), "int16"), (torch.zeros(1, 9, dtype=torch.cfloat), "complex64"),
    (np.zeros((1, 9)), "float64"),
    ([0.], "list"), (None, "NoneType"), (torch.tensor([[0., float("nan")]]), "1 values"),
    (torch.full((2, 3), -float("inf")), "6 values")])
def test_bad_waveform(waveform, says):
    with pytest.raises(InputError, match=naming("waveform", says)): Audio(waveform, 16000)

@pytest.mark.parametrize("rate", [0, -1, 16000.0, "16000", None, True, 1_000_000])
def test_bad_rate(rate):
    with pytest.raises(InputError, match=naming("sample_rate", repr(rate))): Audio(torch.zeros(1, 9), rate)

@pytest.mark.parametrize("data, says", [
    (b"file,prompt\n0.wav,caf\xe9\n", "UTF-8 0xe9"), ("file,prompt\n0.wav,rain\n".encode("utf-16"), "UTF-8 0xff"),
    (b"", "columns file prompt ''"), (b"file,prompt\n", "rows"),
    (b'file,prompt\n0.wav,"rain" and wind\n', "line 2 quotes"),
    (b"sep=;\nfile;prompt\n", "columns file prompt 'sep=;'"),
    (b"file,prompt\n0.wav,rain,\n", "line 2 3 fields 2 columns file, prompt")])
def test_tables_that_cannot_be_read_are_named(tmp_path, data, says):
    (tmp_path / "t.csv").write_bytes(data)
    with pytest.raises(InputError, match=naming(tmp_path / "t.csv", *says.split())):
        read_csv(tmp_path / "t.csv", ["file", "prompt"])

def test_a_table_out_of_a_spreadsheet(tmp_path):
    "A byte order mark, lines of Windows, an empty column at the end, columns that nobody asked for"
    (tmp_path / "t.csv").write_bytes("\ufefffile,n,prompt,\r\n0.wav,1,\"rain, then wind\",\r\n\r\n".encode())
    assert read_csv(tmp_path / "t.csv", ["file", "prompt"]) == [
        (2, {"file": "0.wav", "n": "1", "prompt": "rain, then wind", "": ""})]
    with pytest.raises(InputError, match=naming(tmp_path / "none.csv", "No such file")):
        read_csv(tmp_path / "none.csv", ["file"])
    with pytest.raises(InputError, match=naming(tmp_path, "directory")): read_csv(tmp_path, ["file"])

def test_waveform_is_plain_float32():
    audio = Audio(torch.zeros(1, 9, dtype=torch.float64, requires_grad=True), np.int64(8000))
    assert audio.waveform.dtype == torch.float32 and not audio.waveform.requires_grad and type(audio.sample_rate) is int

@pytest.mark.parametrize("ending", [".wav", ".flac", ".ogg", ".WAV"])
@pytest.mark.parametrize("samples, channels", [(1, 1), (16000, 2)])
def test_save(tmp_path, ending, samples, channels):
    path = tmp_path / f"-a b.é{ending}"
    tone(samples / 16000, channels=channels).save(str(path))
    info = soundfile.info(path)
    assert (info.frames, info.samplerate, info.channels) == (samples, 16000, channels)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]

@pytest.mark.parametrize("name", ["dog", "dog.mp3", "dog.wav.txt", ".wav"])
def test_unknown_ending(tmp_path, name):
    with pytest.raises(InputError, match=naming(f"'{name}'", ".wav", ".flac", ".ogg")): tone().save(tmp_path / name)
    assert not list(tmp_path.iterdir())

def test_places_that_cannot_be(tmp_path):
    with pytest.raises(InputError, match=naming(tmp_path / "missing/dog.wav", "folder")):
        tone().save(tmp_path / "missing" / "dog.wav")
    (tmp_path / "dog.wav").mkdir()
    with pytest.raises(InputError, match=naming(tmp_path / "dog.wav", "not a file")): tone().save(tmp_path / "dog.wav")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=naming(tmp_path / "file", "not a folder")):
        with atomic_folder(tmp_path / "file"): pass
    with pytest.raises(InputError, match=naming("/dev/null", "not a file")):
        with atomic_file("/dev/null"): pass
    with pytest.raises(ClipsonicError, match="File name too long"): tone().save(tmp_path / ("d" * 300 + ".wav"))
    with pytest.raises(InputError, match=naming(9, "channel")): tone(channels=9).save(tmp_path / "nine.flac")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dog.wav", "file"]

def test_link_stays_a_link(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link.wav").symlink_to(tmp_path / "there" / "real.wav")
    tone().save(tmp_path / "link.wav")
    assert (tmp_path / "link.wav").is_symlink() and (tmp_path / "there" / "real.wav").stat().st_size > 32000

def test_too_loud_is_turned_down(tmp_path):
    loud = Audio(3 * tone().waveform, 16000)
    with pytest.warns(UserWarning, match=naming("peak", 1.5)): loud.save(tmp_path / "loud.flac")
    back = soundfile.read(tmp_path / "loud.flac")[0]
    assert abs(np.abs(back).max() - 1) < 1e-3 and np.abs(back - 2 * tone().waveform[0].numpy()).max() < 1e-3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tone().save(tmp_path / "fine.wav")
    assert loud.peak == pytest.approx(1.5, abs=1e-3)  # the sound itself is untouched

FULL = """
import resource, torch
from pathlib import Path
from clipsonic.core import Audio, ClipsonicError, atomic_folder
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try: Audio(torch.zeros(1, 16000), 16000).save("dog.wav")
except ClipsonicError as error: print("sound:", error)
try:
    with atomic_folder("run") as partial:
        (partial / "small").write_bytes(bytes(1000))
        (partial / "big").write_bytes(bytes(30_000))
except ClipsonicError as error: print("folder:", error)
"""

def test_a_write_cut_short_leaves_what_was_there(tmp_path):
    "The kernel refuses bytes beyond 20 000, as a full disk would."
    (tmp_path / "dog.wav").write_text("old")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "small").write_text("old")
    done = run(FULL, tmp_path)
    sound, folder = done.stdout.splitlines()
    assert sound.startswith("sound: ") and "too large" in sound, done.stdout + done.stderr
    assert folder.startswith("folder: ") and "too large" in folder, done.stdout + done.stderr
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["dog.wav", "run", "small"]
    assert (tmp_path / "dog.wav").read_text() == (tmp_path / "run" / "small").read_text() == "old"

def test_full_disk(tmp_path):
    "A file system of 32 kB, where this process may mount one."
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", tmp_path], capture_output=True)
    if mounted.returncode: pytest.skip("mounting a small file system needs root")
    try:
        with pytest.raises(ClipsonicError, match="No space left"): tone(4.).save(tmp_path / "dog.wav")
        assert not list(tmp_path.iterdir())
        tone(0.5).save(tmp_path / "dog.wav")
    finally: subprocess.run(["umount", tmp_path], check=True)

KILLED = """
import os, signal
from clipsonic.core import atomic_folder
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
with atomic_folder("run") as partial:
    (partial / "a").write_text("new")
    if "{when}" == "filling": die()
    (partial / "b").write_text("new")
    if "{when}" == "before": os.rename = die
    if "{when}" == "between":
        rename = os.rename
        os.rename = lambda *names: (rename(*names), die())
"""

@pytest.mark.parametrize("when", ["filling", "before", "between"])
def test_killed_while_publishing(tmp_path, when):
    with atomic_folder(tmp_path / "run") as partial:
        for name in "ab": (partial / name).write_text("old")
    assert run(KILLED.format(when=when), tmp_path).returncode == -signal.SIGKILL
    whole = tmp_path / (".run.previous" if when == "between" else "run")
    assert (tmp_path / "run").exists() == (when != "between")
    assert [(whole / name).read_text() for name in "ab"] == ["old", "old"]
    with atomic_folder(tmp_path / "run") as partial: (partial / "a").write_text("global_step")  # and life goes on
    assert (tmp_path / "run" / "a").read_text() == "global_step" and not (tmp_path / ".run.previous").exists()

def test_other_errors_pass_and_leave_nothing(tmp_path):
    for whole in atomic_file, atomic_folder:
        with pytest.raises(KeyError):
            with whole(tmp_path / "x"): raise KeyError("mine")
        with pytest.raises(KeyboardInterrupt):
            with whole(tmp_path / "x"): raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())

@pytest.mark.parametrize("samples, rate, channels", [(1, 16000, 1), (700, 8000, 2), (3000, 44100, 1), (3000, 12345, 4)])
def test_any_sound_can_be_shown(samples, rate, channels):
    html = tone(samples / rate, rate, channels)._repr_html_()
    assert ("audio/mpeg" in html) == (rate != 12345) and "image/png" in html

def test_silence_can_be_shown():
    assert "image/png" in Audio(torch.zeros(1, 16000), 16000)._repr_html_()

def test_streams():
    "Golden figures: a seed means the same noise in every release."
    noise = randn_per_clip((16,), clip_generators(7, 2))
    assert torch.allclose(noise[:, 0], torch.tensor([0.7583, -1.3941]), atol=1e-4), noise[:, 0]
    assert torch.equal(randn_per_clip((16,), clip_generators(7, 1, start=1))[0], noise[1])
    assert not torch.equal(*(randn_per_clip((16,), clip_generators(seed, 1, first))
                             for seed, first in ((7, 5), (7 + 5 * 2**32, 0))))
    state = torch.get_rng_state()
    randn_per_clip((16,), clip_generators(2**63 - 1, 1))
    assert torch.equal(state, torch.get_rng_state()) and clip_generators(0, 0) == []

@pytest.mark.parametrize("seed, n", [(-1, 1), (1.5, 1), ("7", 1), (None, 1), (True, 1), (7, -1)])
def test_bad_streams(seed, n):
    with pytest.raises(InputError): clip_generators(seed, n)

@pytest.mark.parametrize("device", ["gpu", "cuda:99", 3.5, ""])
def test_no_such_device(device):
    with pytest.raises(InputError, match=naming("device", repr(device))): pick_device(device)
