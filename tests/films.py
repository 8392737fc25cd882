"""Small films and broken files for the tests of video, shards and prepare."""
import io
import math

import av
import numpy as np
import soundfile
import torch
from PIL import Image

from clipsonic.core import Audio
from clipsonic.video import write_video

COLOURS = ['red', 'yellow', 'lime', 'white', 'cyan', 'magenta']

def tone(seconds, hertz=440., rate=16000, level=.3, channels=1):
    "A sine of the given pitch."
    t = torch.arange(round(seconds * rate)) / rate
    return Audio((level * torch.sin(2*math.pi * hertz * t)).repeat(channels, 1), rate)

def film(path, seconds=2., n=0, audio=True, size=(64, 48), rate=8):
    "A film that turns from colour n to the next at every second, with a tone (or the Audio that is given, or None)."
    frames = (Image.new('RGB', size, COLOURS[(n + k // rate) % len(COLOURS)]) for k in range(round(seconds * rate)))
    write_video(path, frames, rate, tone(seconds, 220 + 40*n) if audio is True else audio)
    return path

def remux(source, path, audio_delay=0., **options):
    "A copy of a film's packets in another container, its sound delayed."
    with av.open(str(source)) as old, av.open(str(path), 'w', options=options) as new:
        streams = {stream.index: new.add_stream_from_template(stream) for stream in old.streams}
        for packet in old.demux():
            if packet.dts is None: continue
            if packet.stream.type == 'audio':
                packet.pts += round(audio_delay / packet.time_base)
                packet.dts += round(audio_delay / packet.time_base)
            packet.stream = streams[packet.stream.index]
            new.mux(packet)
    return path

def cut(path, share):
    "Leave only the first part of a file."
    path.write_bytes(path.read_bytes()[:int(share * path.stat().st_size)])
    return path

def song(path, seconds=2.):
    "An mp3 with a cover."
    sound, cover = io.BytesIO(), io.BytesIO()
    soundfile.write(sound, tone(seconds, rate=44100).waveform[0].numpy(), 44100, format='MP3')
    Image.new('RGB', (32, 32), 'red').save(cover, 'PNG')
    frame = b'\0image/png\0\3\0' + cover.getvalue()
    frame = b'APIC' + len(frame).to_bytes(4, 'big') + b'\0\0' + frame
    size = bytes(len(frame) >> shift & 127 for shift in (21, 14, 7, 0))
    path.write_bytes(b'ID3\3\0\0' + size + frame + sound.getvalue())
    return path

def pitch(waveform, rate=16000):
    "The loudest frequency in hertz."
    spectrum = np.abs(np.fft.rfft(waveform.reshape(-1).numpy()))
    return float(spectrum.argmax() * rate / waveform.numel())
