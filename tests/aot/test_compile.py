"""Every Triton kernel compiles ahead of time, without a GPU, for the architectures that are meant to run it."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

# The interpreter's switch and the compiler cannot share a process.
PROGRAM = """
import json, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from lsp_fast.kernels import lambda_return, philox, select_elites

SHARED = {80: 166_912, 90: 232_448, 100: 232_448}  # bytes a block can have

def pointers(names, kind="*fp32"):
    return dict.fromkeys(names.split(), kind)

def numbers(names):
    return dict.fromkeys(names.split(), "i32")

KERNELS = {
    "lambda_return forward": (
        lambda_return._forward,
        pointers("rewards values discounts bootstrap returns") | {"lam": "fp32"} | numbers("steps columns"),
        {"BLOCK": 256}, {},
    ),
    "lambda_return backward": (
        lambda_return._backward,
        pointers("grad values discounts bootstrap returns d_rewards d_values d_discounts d_bootstrap")
        | {"lam": "fp32"} | numbers("steps columns"),
        {"BLOCK": 256}, {},
    ),
    "select_elites": (
        select_elites._select,
        pointers("values plans mean std new_mean new_std") | {"indices": "*i64", "floor": "fp32"}
        | numbers("candidates size elites"),
        {"G": 16, "SIZE": 4}, {},
    ),
    "select_elites of actions": (
        select_elites._select,
        pointers("values plans mean std new_mean new_std") | {"indices": "*i64", "floor": "fp32"}
        | numbers("candidates size elites"),
        {"G": 1024, "SIZE": 16}, {},
    ),
    "philox": (
        philox._normals,
        {"key": "*i64", "out": "*fp32"} | numbers("stream first_step rows columns"),
        {"ROWS": philox.ROWS, "BLOCKS": philox.BLOCKS}, {"enable_fp_fusion": False},
    ),
}
found = {}
for name, (kernel, signature, constants, options) in KERNELS.items():
    for arch in SHARED:
        source = ASTSource(kernel, signature | dict.fromkeys(constants, "constexpr"), constants)
        compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
        assert compiled.metadata.shared <= SHARED[arch], (name, arch, compiled.metadata.shared)
        fused = compiled.asm["ptx"].count("fma.rn.f32")
        found[f"{name}, sm_{arch}"] = {"bytes": len(compiled.asm["cubin"]), "fused": fused}
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_every_kernel_compiles(tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 15 and all(kernel["bytes"] > 0 for kernel in found.values())
    # A fused multiply-add would round otherwise than the processor does.
    assert all(kernel["fused"] == 0 for name, kernel in found.items() if name.startswith("philox"))
