#!/usr/bin/env bash
# Expected: an elementwise function, or a normalisation of one picture, gives the same bits on any number of threads, as
#           each element, or group, is computed by itself.
# Happens:  not on x86. `silu`, `sigmoid` and `sgn` of complex numbers handle the last elements of a thread's share,
#           which do not fill two vectors, with other code, whose last bit differs; where the share ends depends on the
#           number of threads. `group_norm` of 1 024 positions or more in channels_last order adds up one sum a thread.
#           `exp` and `gelu` agree. So a diffusion model's sample depends on how many cores the machine has.
# Seen:     torch 2.13.0 and 2.11.0, Python 3.11, x86 with AVX-512 and with AVX2, on 2026-11-27.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$work/venv/bin/python" - <<'PY'
import platform
import torch
import torch.nn.functional as F
print({"Python": platform.python_version(), "torch": torch.__version__, "vectors": torch.backends.cpu.get_cpu_capability()})
x = torch.randn(129_150, generator=torch.Generator().manual_seed(0))
picture = torch.randn(1, 64, 32, 64, generator=torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last)
works = {"exp": lambda: x.exp(), "gelu": lambda: F.gelu(x), "silu": lambda: F.silu(x), "sigmoid": lambda: x.sigmoid(),
         "complex sgn": lambda: torch.sgn(torch.complex(x, x.flip(0))), "group_norm": lambda: F.group_norm(picture, 32)}
found = {}
for name, work in works.items():
    made = []
    for threads in 1, 2, 3:
        torch.set_num_threads(threads)
        made.append(work())
    found[name] = all(torch.equal(each, made[0]) for each in made)
    print(f"{name}: {'the same bits' if found[name] else 'other bits'} on 1, 2 and 3 threads, "
          f"largest difference {max((each - made[0]).abs().max().item() for each in made):.1e}")
assert [name for name, same in found.items() if same] == ["exp", "gelu"], "this has changed"
PY
