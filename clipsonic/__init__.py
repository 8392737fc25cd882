"""Sounds for texts, images and silent videos: `from clipsonic import generate`; `import clipsonic` loads no module."""
__version__ = "0.1.0"

_homes = {"generate": "pipeline", "Pipeline": "pipeline", "Audio": "core", "ClipsonicError": "core", "Studio": "studio"}
__all__ = [*_homes]

TYPE_CHECKING = False
if TYPE_CHECKING:  # what editors read
    from clipsonic.core import Audio, ClipsonicError
    from clipsonic.pipeline import Pipeline, generate
    from clipsonic.studio import Studio

def __getattr__(name):
    "Loads what is named above when it is asked for."
    if name not in _homes: raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module
    return getattr(import_module(f"{__name__}.{_homes[name]}"), name)

def __dir__(): return [*globals(), *_homes]
