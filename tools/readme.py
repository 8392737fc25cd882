"""Render nbs/index.ipynb to README.md with nbconvert, which needs no quarto.

    python tools/readme.py            write README.md
    python tools/readme.py --check    fail if README.md is not what the notebook renders to
"""
import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

root = Path(__file__).resolve().parent.parent
notebook, readme = root/'nbs'/'index.ipynb', root/'README.md'

HIDDEN = re.compile(r'^#\|\s*hide\s*$', re.M)
DIRECTIVES = re.compile(r'\A(#\|.*\n?)+')
RELATIVE_LINK = re.compile(r'\]\((?![a-z]+:|#)')

def render(path=notebook):
    "The notebook as markdown: hidden cells and directives removed, links seen from the top of the repository."
    nb = nbformat.read(path, as_version=4)
    nb.metadata['language_info'] = {'name': 'python'}   # cleaned away in the notebook; it colours the code
    nb.cells = [cell for cell in nb.cells if not HIDDEN.search(cell.source)]
    for cell in nb.cells:
        if cell.cell_type == 'code': cell.source = DIRECTIVES.sub('', cell.source)
        else: cell.source = RELATIVE_LINK.sub('](nbs/', cell.source)
    body, resources = MarkdownExporter().from_notebook_node(nb)
    if resources.get('outputs'):
        raise ValueError(f'{path.name} has a picture among its outputs, which a README cannot hold: '
                         'save it under nbs/images and link to it from a markdown cell')
    return re.sub(r'\n\s*\n', '\n\n', body).strip() + '\n'

def main():
    "Write README.md, or with --check compare it."
    text = render()
    if '--check' not in sys.argv[1:]: return readme.write_text(text, encoding='utf-8')
    if not readme.exists() or readme.read_text(encoding='utf-8') != text:
        sys.exit('README.md is not what nbs/index.ipynb renders to: run `python tools/readme.py`')

if __name__ == '__main__': main()
