#!/usr/bin/env bash
# Expected: an animated picture that Pillow opens and saves in another format, or the same, with `save_all=True` shows
#           each of its pictures as long as before. Pillow reads and writes durations in GIF, PNG and WebP.
# Happens:  saved as WebP, from any of the three, each picture gets the duration of the first (PNG did so until 10.4:
#           pull request 8104). WebP saved as PNG shows the first picture for 0 ms, which is new in 13.0: `seek` forgets
#           the duration (pull request 9791), and the first picture is loaded already, so nothing reads it again.
# Seen:     Pillow 13.0.0; with 12.3.0 and 12.0.0 the WebPs only; Python 3.11 and 3.13, on 2026-11-27.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pillow==13.0.0
"$work/venv/bin/python" - <<'PY'
import io, platform
import PIL
from PIL import Image, ImageSequence
print({"Python": platform.python_version(), "Pillow": PIL.__version__})

def durations(file):
    "How long each picture is shown, in milliseconds."
    shown = []
    for picture in ImageSequence.Iterator(Image.open(file)):
        picture.load()
        shown.append(round(picture.info["duration"]))
    return shown

pictures = [Image.new("RGB", (16, 16), color) for color in ("red", "green", "blue")]
found = {}
for old in "GIF", "PNG", "WEBP":
    source = io.BytesIO()
    pictures[0].save(source, old, save_all=True, append_images=pictures[1:], duration=[500, 200, 300])
    assert durations(source) == [500, 200, 300]
    for new in "GIF", "PNG", "WEBP":
        copy = io.BytesIO()
        Image.open(source).save(copy, new, save_all=True)
        found[old, new] = durations(copy)
        print(f"{old} {durations(source)} ms, opened and saved as {new}: {found[old, new]} ms")
assert {pair: shown for pair, shown in found.items() if shown != [500, 200, 300]} == {
    ("GIF", "WEBP"): [500] * 3, ("PNG", "WEBP"): [500] * 3, ("WEBP", "WEBP"): [500] * 3,
    ("WEBP", "PNG"): [0, 200, 300]}, "this has changed"
PY
