"""Plain pages of processed notebooks, by nbconvert, where there is no Quarto: with its cell options, not its search."""
import re
import shutil
from pathlib import Path

import nbformat
import yaml
from nbconvert import HTMLExporter
from pygments.formatters import HtmlFormatter

here = Path(__file__).resolve().parent
OPTION = re.compile(r'\A#\|\s*([\w-]+):\s*(.*)\n?')
HEADING = re.compile(r'^(#{1,6} .+?) \{#(\S+)\}$', re.M)

def options(source):
    "Quarto's options at the head of a cell, and the cell without them."
    found = {}
    while match := OPTION.match(source):
        found[match[1]] = yaml.safe_load(match[2])
        source = source[match.end():]
    return found, source

def as_pandoc(source):
    "Pandoc's heading ids and div fences as HTML, outside code."
    parts = re.split(r'(^```.*?^```$)', source, flags=re.M | re.S)
    for index in range(0, len(parts), 2):
        text = HEADING.sub(r'<a class="anchor" id="\2"></a>\n\n\1', parts[index])
        text = re.sub(r'^::: \{\.([\w-]+)\}$', r'<div class="\1">\n', text, flags=re.M)
        parts[index] = re.sub(r'^:::$', '\n</div>', text, flags=re.M)
    return ''.join(parts)

def prepared(nb):
    "A processed notebook as the template takes it, and its front matter."
    matter = {}
    for cell in list(nb.cells):
        if cell.cell_type == 'raw' and cell.source.startswith('---'):
            matter |= yaml.safe_load(cell.source.strip().strip('-'))
            nb.cells.remove(cell)
        elif cell.cell_type == 'markdown': cell.source = as_pandoc(cell.source)
        elif cell.cell_type == 'code':
            found, cell.source = options(cell.source)
            cell.metadata['fold'] = found.get('code-summary', 'Code') if found.get('code-fold') else None
            cell.metadata['transient'] = {'remove_source': found.get('echo') is False}
            if 'fig-alt' in found: cell.metadata['alt'] = found['fig-alt']
    return nb, matter

def flat(contents):
    for item in contents: yield from flat(item['contents']) if 'section' in item else [item]

def render(folder, contents):
    "Every notebook of a folder as a page in its folder `_site`, beside the pictures and the style."
    made = folder/'_site'
    made.mkdir()
    for file in folder.glob('*.png'): shutil.copy(file, made)
    styles = [file.read_text(encoding='utf-8') for file in (here/'plain.css', folder/'styles.css')]
    (made/'styles.css').write_text('\n'.join([HtmlFormatter().get_style_defs('.highlight'), *styles]), encoding='utf-8')
    site = yaml.safe_load((folder/'nbdev.yml').read_text(encoding='utf-8'))['website']
    exporter = HTMLExporter(template_file='plain.html.j2', extra_template_paths=[str(here)],
                            exclude_input_prompt=True, exclude_output_prompt=True, exclude_anchor_links=True)
    notebooks = {item['href']: prepared(nbformat.read(folder/item['href'], as_version=4)) for item in flat(contents)}
    address = {name: matter['output-file'] for name, (_, matter) in notebooks.items()}
    order = [None, *notebooks, None]
    for index, (name, (nb, matter)) in enumerate(notebooks.items()):
        resources = {'site': site, 'matter': matter, 'contents': contents, 'address': address, 'here': name,
                     'previous': order[index], 'next': order[index + 2],
                     'labels': {item['href']: item['text'] for item in flat(contents)}}
        nb.metadata['language_info'] = {'name': 'python'}
        body, _ = exporter.from_notebook_node(nb, resources)
        body = re.sub(r'<p><a class="anchor" id="(.*?)"></a></p>\s*<h(\d) id=".*?">', r'<h\2 id="\1">', body)
        (made/address[name]).write_text(body, encoding='utf-8')
    return made
