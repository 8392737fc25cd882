"""Small films and broken files for the tests of video, shards and prepare."""
import io
import math
from fractions import Fraction
from heapq import merge

import av
import numpy as np
import soundfile
import torch
from PIL import Image

from clipsonic.core import Audio
from clipsonic.video import _sound_frames, write_video

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

def remux(source, path, audio_delay=0., video_delay=0., keep=lambda kind, seconds: True, late=lambda seconds: 0.,
          **options):
    """A copy of a film's packets in another container, its tracks delayed; of the packets that are kept, the sound's
    `late` as a function of their time."""
    with av.open(str(source)) as old, av.open(str(path), 'w', options=options) as new:
        streams = {stream.index: new.add_stream_from_template(stream) for stream in old.streams}
        for packet in old.demux():
            if packet.dts is None or not keep(packet.stream.type, now := float(packet.pts * packet.time_base)): continue
            delay = round((audio_delay + late(now) if packet.stream.type == 'audio' else video_delay)
                          / packet.time_base)
            packet.pts += delay
            packet.dts += delay
            packet.stream = streams[packet.stream.index]
            new.mux(packet)
    return path

def ladder(seconds, rate=16000, channels=1, first=0):
    "A tone that climbs every second: 300, 500, 700 Hz, …, from a given step on."
    t = torch.arange(round(seconds * rate)) / rate
    return Audio((.3 * torch.sin(2*math.pi * (300 + 200 * (t.floor() + first)) * t)).repeat(channels, 1), rate)

def steps(path, seconds=4., video='libx264', audio='aac', rate=16000, channels=1, first=0, fps=8, **options):
    """A film that gets lighter by a step every second, and its `ladder`, by given codecs (None: no such track); one key
    frame, at the beginning."""
    options = {'g': '1000', 'sc_threshold': '0' if video == 'libx264' else '1000000000'} | options
    with av.open(str(path), 'w') as file:
        if video: pictures = file.add_stream(video, rate=fps, width=64, height=48, pix_fmt='yuv420p', options=options)
        if audio: sound = file.add_stream(audio, rate=rate, layout='mono' if channels == 1 else 'stereo')
        def images():
            for n in range(round(seconds * fps)):
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 + 25 * (n // fps + first), np.uint8),
                                                   'rgb24')
                frame.pts, frame.time_base = n, Fraction(1, fps)
                yield n / fps, pictures, frame
        def sounds():
            for frame in _sound_frames(ladder(seconds, rate, channels, first)): yield frame.pts / rate, sound, frame
        for _, stream, frame in merge(images() if video else (), sounds() if audio else (), key=lambda each: each[0]):
            file.mux(stream.encode(frame))
        for stream in file.streams: file.mux(stream.encode(None))
    return path

def joined(path, *parts):
    "Files one behind the other, byte by byte."
    path.write_bytes(b''.join(part.read_bytes() for part in parts))
    return path

def heard(audio):
    "The step of the `ladder` that is heard in the middle of each second; None for silence."
    waves = [audio.waveform[0, round(at * audio.sample_rate):][:audio.sample_rate // 2]
             for at in np.arange(.25, audio.seconds - .4)]
    return [None if wave.abs().max() < .01 else round((pitch(wave, audio.sample_rate) - 300) / 200, 1)
            for wave in waves]

def seen(found):
    "The steps of light of what `read_frames` found, by time."
    return {round(time, 3): round((np.asarray(image).mean() - 20) / 25) for time, image in zip(*found)}

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
