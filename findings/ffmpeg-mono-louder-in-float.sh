#!/usr/bin/env bash
# Expected: FFmpeg mixes the channels of a sound to one by the same weights, whatever the numbers are stored as.
# Happens:  the weights are divided by their sum (so that nothing clips) only if the result is integers. If it is
#           floats, stereo becomes 3 dB louder in mono and 5.1 becomes 10.7 dB louder: full scale goes to 3.4. So the
#           same sound gets another loudness if somebody changes `format="s16"` to `"flt"`, or, where the resampler
#           keeps the format, if it comes as a wav (integers) or as AAC (floats).
# Seen:     PyAV 18.1.0 (FFmpeg 8.1.2) and 19.0.2 (FFmpeg 9.0.2), Python 3.11 and 3.13, on 2026-11-27.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check av==18.1.0 numpy==2.4.6
"$work/venv/bin/python" - <<'PY'
import platform
import av, numpy as np
print({"Python": platform.python_version(), "av": av.__version__, "FFmpeg": av.ffmpeg_version_info})

RATE = 48000
tone = 0.1 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)

def gain(layout, source, target):
    "By how many dB a tone in all channels is louder after AudioResampler has made it mono."
    channels = np.tile(tone, (av.AudioLayout(layout).nb_channels, 1))
    channels = channels.astype(np.float32) if source == "fltp" else (channels * 32768).round().astype(np.int16)
    frame = av.AudioFrame.from_ndarray(channels, format=source, layout=layout)
    frame.sample_rate = RATE
    mixed, = av.AudioResampler(format=target, layout="mono", rate=RATE).resample(frame)
    mono = mixed.to_ndarray().astype(np.float64) / (32768 if target == "s16p" else 1)
    return round(20 * np.log10(np.abs(mono).max() / 0.1), 1) + 0.0

found = {}
for layout in "stereo", "5.1":
    for source in "s16p", "fltp":
        for target in "s16p", "fltp":
            found[layout, source, target] = gain(layout, source, target)
            print(f"{layout} to mono, {source} to {target}: {found[layout, source, target]:+.1f} dB")
assert all(dB == {"s16p": 0, "fltp": {"stereo": 3.0, "5.1": 10.7}[layout]}[target]
           for (layout, source, target), dB in found.items()), "this has changed"
PY
