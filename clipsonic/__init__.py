"""Sounds for texts, pictures and silent videos: `from clipsonic import generate`. What is named here is loaded when it is asked for, so `import clipsonic` alone is quick."""
__version__ = "0.1.0"

_homes = {"generate": "pipeline", "Pipeline": "pipeline", "Audio": "core", "ClipsonicError": "core", "Studio": "studio"}
__all__ = [*_homes]

def __getattr__(name):
    if name not in _homes: raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module
    return getattr(import_module(f"{__name__}.{_homes[name]}"), name)

def __dir__(): return [*globals(), *_homes]
