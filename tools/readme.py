"""Render nbs/index.ipynb to README.md with nbconvert, which needs no quarto.

    python tools/readme.py            write README.md, and the spectrograms of its sounds
    python tools/readme.py --check    fail if they are not what the notebook renders to
"""
import base64
import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

root = Path(__file__).resolve().parent.parent
notebook, readme = root/'nbs'/'index.ipynb', root/'README.md'

UNSEEN_CODE = re.compile(r'^#\|\s*echo:\s*false\s*$', re.M)
SOUND = re.compile(r'<audio .*?<img alt="(.*?)" src="data:image/png;base64,(.*?)">', re.S)   # what an `Audio` shows
HIDDEN = re.compile(r'^#\|\s*hide\s*$', re.M)
DIRECTIVES = re.compile(r'\A(#\|.*\n?)+')
RELATIVE_LINK = re.compile(r'\]\((?![a-z]+:|#)')

def render(path=notebook):
    """What the notebook makes, as bytes by file: README, and the spectrogram of each sound, as a README plays none.

    Links are seen from the top of the repository.
    """
    nb = nbformat.read(path, as_version=4)
    nb.metadata['language_info'] = {'name': 'python'}   # cleaned away in the notebook; it colours the code
    nb.cells = [cell for cell in nb.cells if not HIDDEN.search(cell.source)]
    for cell in nb.cells:
        if cell.cell_type == 'code':
            cell.metadata['transient'] = {'remove_source': bool(UNSEEN_CODE.search(cell.source))}
            cell.source = DIRECTIVES.sub('', cell.source)
        else: cell.source = RELATIVE_LINK.sub('](nbs/', cell.source)
    body, resources = MarkdownExporter().from_notebook_node(nb)
    if resources.get('outputs'):
        raise ValueError(f'{path.name} has an image among its outputs, which a README cannot hold: '
                         'save it under nbs/images and link to it from a markdown cell')
    made = {}
    def spectrogram(sound):
        made[file := path.with_name(f'{path.stem}_{len(made) + 1}.png')] = base64.b64decode(sound[2])
        return f'![{sound[1]}]({file.relative_to(root).as_posix()})'
    body = SOUND.sub(spectrogram, body)
    return made | {readme: (re.sub(r'\n\s*\n', '\n\n', body).strip() + '\n').encode()}

def main():
    "Write README.md and its spectrograms, or compare them with --check."
    for file, content in render().items():
        if '--check' not in sys.argv[1:]: file.write_bytes(content)
        elif not file.exists() or file.read_bytes() != content:
            sys.exit(f'{file.name} is not what nbs/index.ipynb renders to: run `python tools/readme.py`')

if __name__ == '__main__': main()
