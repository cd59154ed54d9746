"""Compiles every Triton kernel for an H100 (sm_90) and prints a line for each. Needs no GPU, and not the
interpreter.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from pipeline.hmm import triton_kernels, triton_viterbi

LONG = "row_at cell_at row_graph states arcs"
INT = "lengths splits pdf begin degree most other tid arc group_splits group_pdf member_at members backpointer last"
WIDE = "cum mid_cum scores log_zs grads log_best"
REAL = "emissions transitions ends weight ring rows mid out counts d_transitions d_emissions"
TYPES = {
    name: f"*{t}"
    for t, names in (("i64", LONG), ("i32", INT), ("fp64", WIDE), ("fp32", REAL))
    for name in names.split()
}


def compile_kernel(kernel, types: dict, **constants) -> None:
    """Down to the GPU's machine code."""
    signature = {a: "constexpr" if a in constants else types.get(a, "i32") for a in kernel.arg_names}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    done = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4, "num_stages": 1})
    print(f"{kernel.__name__}:{len(done.asm['cubin'])}")


def main() -> None:
    """Compile the variants that training uses."""
    double = {**{k: v.replace("fp32", "fp64") for k, v in TYPES.items()}, "ends": "*fp32", "weight": "*fp32"}
    half = {name: {**TYPES, "emissions": f"*{name}", "d_emissions": f"*{name}"} for name in ("bf16", "fp16")}
    for types in (TYPES, double, *half.values()):
        sweep = {"DT": tl.float64 if types is double else tl.float32, "BLOCK": 512}
        compile_kernel(triton_kernels.forward, types, KEEP=True, SCORED=True, **sweep)
        compile_kernel(triton_kernels.join, types, **sweep)
        for arcs in (0, 1, 2):
            compile_kernel(triton_kernels.backward, types, ARCS=arcs, SCORED=arcs > 0, **sweep)
        compile_kernel(triton_kernels.scatter, types, BLOCK=256)
        compile_kernel(triton_viterbi.viterbi, types, SCORED=True, **sweep)
    compile_kernel(triton_viterbi.trace, TYPES)


if __name__ == "__main__":
    main()
