#!/usr/bin/env bash
# Expected: `RobertaTokenizer.from_pretrained(folder)` fails where the folder holds no vocabulary.
# Happens:  transformers 5 makes a tokenizer of the special tokens alone, without an error or a warning. Every text
#           becomes the same two tokens, so a text encoder behind it gives all texts one embedding. A folder whose
#           vocab.json has another name, or was left out of a copy, is enough. GPT-2's and Llama's make nothing of any
#           text, BERT's and T5's count its words, CLIP's its letters. (transformers 4.57.6 fails, if with a message
#           about something else.)
# Seen:     transformers 5.24.0, tokenizers 0.23.3, Python 3.11 and 3.12, on 2026-11-27.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.24.0 tokenizers==0.23.3
mkdir "$work/empty"
HF_HUB_OFFLINE=1 TRANSFORMERS_NO_ADVISORY_WARNINGS=1 "$work/venv/bin/python" - "$work/empty" <<'PY'
import platform, sys
import tokenizers, transformers
versions = {"Python": platform.python_version(), **{m.__name__: m.__version__ for m in (transformers, tokenizers)}}
print(versions)
for name in ("RobertaTokenizer", "GPT2Tokenizer", "LlamaTokenizer", "BertTokenizer", "CLIPTokenizer", "T5Tokenizer"):
    try: tokenizer = getattr(transformers, name).from_pretrained(sys.argv[1])
    except Exception as error: sys.exit(f"this has changed: {name} fails with {error!r}")
    found = [tokenizer(text)["input_ids"] for text in ("a dog barking", "a siren wailing")]
    print(f"{name} of an empty folder: {found}")
    assert found[0] == found[1] or name == "CLIPTokenizer", "this has changed"  # CLIP's counts the characters
PY
