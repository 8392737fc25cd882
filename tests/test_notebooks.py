"""Every notebook's inline tests, one case per notebook, run by nbdev. Flagged cells run when `--flags` names their flag."""
import json
import re
from pathlib import Path

import pytest
import torch
from nbdev.test import test_nb as run_notebook

from conftest import FLAGS, root, why_skipped

run_notebook.__test__ = False   # nbdev's function, not a test of ours
notebooks = sorted((root/'nbs').glob('*.ipynb'))

def flags_in(path):
    "The flags that occur on cells of the notebook."
    sources = [''.join(cell['source']) for cell in json.loads(path.read_text(encoding='utf-8'))['cells'] if cell['cell_type'] == 'code']
    return {word for source in sources for word in re.findall(r'^#\|\s*(\w+)\s*$', source, re.M)} & FLAGS

@pytest.mark.parametrize('path', notebooks, ids=lambda path: path.stem)
def test_notebook(path, request, monkeypatch, capfd):
    monkeypatch.setenv('IN_TEST', '1')
    monkeypatch.syspath_prepend(str(root))
    passed, _ = run_notebook(path, skip_flags=FLAGS, force_flags=request.config.run_flags)
    assert passed, f'{path.name} fails:\n{capfd.readouterr().err}'
    assert torch.is_grad_enabled() and torch.get_default_dtype() is torch.float32, 'a notebook sets no global mode'
    if 'data' in flags_in(path) - request.config.run_flags:
        pytest.skip(f'its other cells pass; {why_skipped("data")}')
