#!/usr/bin/env bash
# Expected: the page of a notebook shows the whole of its first cell: the title, the line in ">", and the text after it.
# Happens:  nbdev's FrontmatterProc takes title and description out of that cell and drops the rest of it, whatever it
#           says; a list item "- name: text" there goes into the page's front matter, as a setting.
# Seen:     nbdev 2.4.14, execnb 0.1.18, fastcore 1.14.5, Python 3.11, on 2026-11-28.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check nbdev==2.4.14 execnb==0.1.18 fastcore==1.14.5 "ghapi<2" "fastgit<0.1"
cd "$work"
"$work/venv/bin/python" - <<'PY'
import platform
from importlib.metadata import version
from execnb.nbio import mk_cell, new_nb, write_nb
from fastcore.basics import AttrDict
from nbdev.frontmatter import FrontmatterProc
from nbdev.process import NBProcessor
print({"Python": platform.python_version(), **{name: version(name) for name in ("nbdev", "execnb", "fastcore")}})

def page(text):
    "The front matter and the cells of a notebook's page."
    cells = [mk_cell(text, "markdown"), mk_cell("Second cell.", "markdown")]
    write_nb(new_nb(cells), "page.ipynb")
    processor = NBProcessor("page.ipynb", procs=FrontmatterProc)
    processor.process()
    return AttrDict(settings=dict(processor.nb.frontmatter_), cells=[cell.source for cell in processor.nb.cells])

plain = page("# Title\n\n> One line.\n\nThe paragraph that says what the page is about.")
listed = page("# Title\n\n> One line.\n\n- author: the one who wrote the first edition")
print("a paragraph:", plain, "\na list:     ", listed)
shown = "\n".join(plain.cells)
assert plain.settings["title"] == "Title" and "Second cell." in shown
assert "The paragraph" not in shown, "this has changed"
assert listed.settings["author"] == "the one who wrote the first edition"
PY
