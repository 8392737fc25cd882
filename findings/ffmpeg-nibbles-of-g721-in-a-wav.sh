#!/usr/bin/env bash
# Expected: what libsndfile writes as a wav of G.721 (4 bits a sample, format tag 0x40) FFmpeg decodes to the same
#           sound, as it does with libsndfile's .au of the same codec.
# Happens:  the two disagree which half of a byte comes first. FFmpeg opens the wav without a complaint and decodes
#           something else; of noise, it has no likeness to what was written. With the halves of each byte swapped,
#           FFmpeg decodes the wav well and libsndfile does not.
# Seen:     PyAV 18.1.0 (FFmpeg 8.1.2) and 19.0.2 (FFmpeg 9.0.2), soundfile 0.14.0 (libsndfile 1.2.2), Python 3.11 and
#           3.13, on 2026-11-27.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check av==18.1.0 numpy==2.4.6 soundfile==0.14.0
"$work/venv/bin/python" - <<'PY'
import io, platform
import av, numpy as np, soundfile
print({"Python": platform.python_version(), "av": av.__version__, "FFmpeg": av.ffmpeg_version_info,
       "soundfile": soundfile.__version__, "libsndfile": soundfile.__libsndfile_version__})

RATE = 8000

def by_ffmpeg(data):
    with av.open(io.BytesIO(data)) as file:
        return np.concatenate([frame.to_ndarray()[0] for frame in file.decode(audio=0)]) / 32768

def by_libsndfile(data): return soundfile.read(io.BytesIO(data))[0]

noise = 0.1 * np.random.default_rng(0).standard_normal(2 * RATE)
found = {}
for form in "wav", "au", "wav, swapped":
    file = io.BytesIO()
    soundfile.write(file, noise, RATE, "G721_32", format=form[:3].strip(","))
    data = file.getvalue()
    if "swapped" in form:
        begin = data.index(b"data") + 8
        data = data[:begin] + bytes(byte >> 4 | (byte & 15) << 4 for byte in data[begin:])
    found[form] = [round(float(np.corrcoef(noise, decode(data)[:len(noise)])[0, 1]), 2)
                   for decode in (by_libsndfile, by_ffmpeg)]
    print("{}: correlation with what was written: libsndfile {}, FFmpeg {}".format(form, *found[form]))
assert {form: [x > 0.98 for x in both] for form, both in found.items()} == {
    "wav": [True, False], "au": [True, True], "wav, swapped": [False, True]}, "this has changed"
PY
