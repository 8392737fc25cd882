"""Every notebook from top to bottom as Jupyter runs it, in a kernel of its own.

A flagged cell runs where `--flags` names its flag; elsewhere it says what it needs.
"""
import ast
import os
import re

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from conftest import FLAGS, root, why_skipped

notebooks = sorted((root/'nbs').glob('*.ipynb'))
unchanged = """import torch
assert torch.is_grad_enabled() and torch.get_default_dtype() is torch.float32, 'a notebook sets no global mode'"""

def flagged(notebook):
    "The code cells that carry a flag, each with that flag."
    for cell in notebook.cells:
        words = re.findall(r'^#\|\s*(\w+)\s*$', cell.source, re.M) if cell.cell_type == 'code' else []
        yield from ((cell, flag) for flag in FLAGS & set(words))

@pytest.mark.parametrize('path', notebooks, ids=lambda path: path.stem)
def test_notebook(path, request, monkeypatch):
    monkeypatch.delenv('IN_TEST', raising=False)
    monkeypatch.setenv('CLIPSONIC_FLAGS', ' '.join(request.config.run_flags))
    monkeypatch.setenv('PYTHONPATH', str(root), prepend=os.pathsep)
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(unchanged))
    try: NotebookClient(notebook, timeout=1800, resources={'metadata': {'path': path.parent}}).execute()
    except CellExecutionError as error: pytest.fail(f'{path.name} fails:\n{error}', pytrace=False)
    skipped = {flag for cell, flag in flagged(notebook) if 'Skipped: this cell needs' in str(cell.outputs)}
    if 'data' in skipped: pytest.skip(f'its other cells pass; {why_skipped("data")}')

def test_flagged_cells_ask_whether_they_run_here():
    "nbdev passes a flagged cell over and Jupyter does not: what it does stands under `runs_here`."
    for cell, flag in (found for path in notebooks for found in flagged(nbformat.read(path, as_version=4))):
        harmless = ast.Import, ast.ImportFrom, ast.FunctionDef
        for node in ast.parse(cell.source).body:
            asks = isinstance(node, ast.If) and ast.unparse(node.test) == f"runs_here('{flag}')"
            assert asks or isinstance(node, harmless), cell.source
