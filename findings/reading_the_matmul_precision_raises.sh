#!/usr/bin/env bash
# torch: once torch.backends.fp32_precision is set, merely reading torch.get_float32_matmul_precision() raises.
#
# Version: torch 2.14.1, CPU. Behaviour: the newer setting torch.backends.fp32_precision = "tf32" and the older ones may not
# be mixed, and that includes looking. So a library that keeps the caller's precision and puts it back, the usual
# `old = torch.get_float32_matmul_precision(); ...; torch.set_float32_matmul_precision(old)`, fails in every program whose
# author uses the newer name, on a machine without a GPU as well; torch.backends.cuda.matmul.allow_tf32 likewise.
#
# Output seen:
#   get_float32_matmul_precision: RuntimeError
#   backends.cuda.matmul.allow_tf32: RuntimeError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.14.1" "numpy==2.3.5"
"$folder/venv/bin/python" - <<'PYTHON'
import torch

assert torch.get_float32_matmul_precision() == "highest"
torch.backends.fp32_precision = "tf32"
looks = {
    "get_float32_matmul_precision": torch.get_float32_matmul_precision,
    "backends.cuda.matmul.allow_tf32": lambda: torch.backends.cuda.matmul.allow_tf32,
}
for name, look in looks.items():
    try:
        said = f"{look()}, so this finding is no longer true"
    except RuntimeError as error:
        said = type(error).__name__
    print(f"{name}: {said}")
    assert said == "RuntimeError"
PYTHON
