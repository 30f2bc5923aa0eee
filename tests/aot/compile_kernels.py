"""Compiles every Triton kernel ahead of time at the paper's sizes and prints as JSON what the assembler says of each.

Run in a process of its own, without Triton's interpreter; with words after it, kernels whose names hold one of them.
"""

import inspect
import json
import multiprocessing
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

from lsp_fast import machine
from lsp_fast.kernels import (
    adam,
    densities,
    imagine,
    imagine_heads,
    imagine_passes,
    lambda_return,
    layers,
    mlp,
    normal,
    observe,
    philox,
    rollout,
    select_elites,
)

ARCHITECTURES = (80, 86, 90, 100, 120)


def signature(kernel, constants, **kinds):
    """Types by names: `kinds` gives each type's arguments (p_ a pointer's), what is left over is an int32."""
    types = {name: kind.replace("p_", "*") for kind, names in kinds.items() for name in names.split()}
    types |= dict.fromkeys(kinds.get("weights", "").split(), f"*{kinds.get('of')}")
    return {name: "constexpr" if name in constants else types.get(name, "i32") for name in kernel.arg_names}


def kernels():
    """(name, kernel, types, constants, options) of each."""
    old = {"BLOCK": lambda_return.BLOCK}
    tensors = "rewards values discounts bootstrap returns grad d_rewards d_values d_discounts d_bootstrap"
    for name in ("_forward", "_backward"):
        kernel = getattr(lambda_return, name)
        yield f"lambda_return{name}", kernel, signature(kernel, old, p_fp32=tensors, fp32="lam"), old, {}
    for name, sizes in {"select_elites": (16, 3), "elites of actions": (1000, 144)}.items():
        kernel = select_elites._select
        g, numbers, warps = select_elites.block(*sizes)
        constants = {"G": g, "SIZE": numbers, "OTHERS": min(g, select_elites.OTHERS)}
        types = signature(
            kernel, constants, p_fp32="values plans mean std new_mean new_std", p_i64="indices", fp32="floor"
        )
        yield name, kernel, types, constants, {"num_warps": warps}
    constants = {"ROWS": philox.ROWS, "BLOCKS": philox.BLOCKS}
    types = signature(philox._normals, constants, p_fp32="out", p_i64="key")
    yield "philox", philox._normals, types, constants, {"enable_fp_fusion": False}

    yield from learning()
    yield from observes()
    for kind in ("bf16", "tf32", "ieee"):
        elements = "bf16" if kind == "bf16" else "fp32"
        common = {"PRECISION": "tf32" if kind == "tf32" else "ieee", "ROUND": 13 if kind == "tf32" else 0}
        sizes = {f"{rows} rows": imagine_heads.tiles(rows, kind) for rows in (16, 500, 40_000)}
        for size, tiles in {**sizes, "large": imagine_heads.tiles(40_000, kind, "large")}.items():

            def row(kernel, tile, constants, *, common=common, elements=elements, **kinds):
                constants = {"M": tile.rows, "BLOCK_K": imagine_heads.INPUTS, **common, **constants}
                if "N" in kernel.arg_names:
                    columns = 208 if "K_X" in constants else 400
                    _, last, side = imagine_heads.spread(columns, tile.columns)
                    constants |= {"N": tile.columns, "LAST": last, "SIDE": side}
                kinds |= {"weights": "x w out h w_ih w_hh", "of": elements}
                options = {"num_warps": tile.warps, "num_stages": tile.stages}
                return kernel, signature(kernel, constants, **kinds), constants, options

            for head in (False, True):
                name = f"{kind} {size} {'head' if head else 'linear'}"
                constants = {"K": 416, "HEAD": head}
                yield name, *row(layers.linear, tiles.linear, constants, p_fp32="bias head head_bias partial")
            types = {"p_fp32": "bias_ih bias_hh state"}
            yield f"{kind} {size} gru", *row(layers.gru, tiles.gru, {"K_X": 224, "K_H": 224}, **types)
            types = {"p_fp32": "bias noise", "fp32": "min_std mean_scale offset"}
            for name, k, width, policy in (("latent", 224, 32, False), ("action", 416, 16, True)):
                constants = {"K": k, "WIDTH": width, "POLICY": policy, "NOISE": True}
                yield f"{kind} {size} {name}", *row(layers.sample, tiles.sample, constants, **types)
        kernel = rollout._rollout
        constants = {
            **common, "K_FIRST": 256, "K_REST": 416, "K_INP": 48, "K_X": 224, "K_H": 224, "K_HIDDEN": 224, "K_OUT": 224,
            "ACTIONS": 16, "STOCH": 32, "NOISE": True, "M": rollout.ROWS, "N": rollout.COLUMNS,
            "BLOCK_K": rollout.INPUTS, "BLOCK_INP": 16,
        }  # fmt: skip
        types = {
            "weights": "x free w_first w_rest w_policy w_inp w_ih w_hh w_hidden w_out",
            "of": elements,
            "p_fp32": "h b_first b_rest b_policy b_inp b_ih b_hh b_hidden b_out action_noise stoch_noise",
            "fp32": "policy_min_std mean_scale offset min_std",
            "p_i32": "counter",
        }
        options = {"num_warps": 4, "num_stages": rollout.STAGES[kind], "launch_cooperative_grid": True}
        yield f"{kind} rollout", kernel, signature(kernel, constants, **types), constants, options


def learning():
    """The kernels that gradients come from."""
    numbers = "raw x p p_std q q_std mean std noise grad out d_raw d_p d_p_std d_q d_q_std d_mean d_std"
    for name in ("log_prob", "kl", "entropy"):
        for way in ("", "_backward"):
            kernel = getattr(densities, f"_{name}{way}")
            for width in (30, 78):  # latent states and observations
                m, n = densities.block(width)
                constants = {"M": m, "N": n}
                types = signature(kernel, constants, p_fp32=numbers, fp32="low high")
                yield f"{name}{way} of {width}", kernel, types, constants, {}
    for name, kernel, left_out in (
        ("bias and ELU", mlp._bias_elu, ()),
        ("before ELU", mlp._before_elu, ()),
        ("before ELU alone", mlp._before_elu, ("partial",)),
        ("bias's gradient", mlp._before_elu, ("y", "out")),
    ):
        for width in (1, 400):
            m, n = mlp.block(width)
            constants = {"ROWS": mlp.ROWS, "M": m, "N": n, **dict.fromkeys(left_out)}
            yield (
                f"{name} of {width}",
                kernel,
                signature(kernel, constants, p_fp32="d y out partial bias"),
                constants,
                {},
            )
    types = {
        "p_fp32": "gradients partial norm",
        "p_i64": "table owner",
        "fp32": "max_norm rate keep_first keep_second log_first log_second eps",
    }
    for name, kernel, constants in (
        ("adam norm", adam._norm, {"BLOCK": adam.BLOCK, "TENSORS": 32}),
        ("adam step", adam._step, {"BLOCK": adam.BLOCK, "PARTS": adam.PARTS}),
    ):
        yield name, kernel, signature(kernel, constants, **types), constants, {}
    sizes = {"S": 30, "A": 6, "D": 200, "INP": 200, "HIDDEN": 200, "S_WIDTH": 32, "A_WIDTH": 16}
    at = {name: 1600 * i for i, name in enumerate(("W_INP", "W_I", "W_H", "W_HIDDEN", "W_OUT", "W_POLICY"))}
    actor = {"W": (0, 16000, 32000, 48000), "B": (160, 320, 480, 640), "UNITS": (400,) * 4, "LAYERS": 4, "SEEN": 233}
    biases = {f"B_{name[2:]}": i for name, i in at.items()}
    types = {
        "p_fp32": "flat held stoch deter stoch_noise action_noise hidden entering gates leaving stoch_slope actions "
        "mean std policy_slope g_stoch g_deter g_actions g_mean g_std d_leaving d_gates d_entering carry_stoch "
        "carry_deter d_policy",
        "p_i32": "counter",
        "fp32": "min_std policy_min_std mean_scale offset",
    }
    for kind, card, rows in (
        ("tf32", "few", 16),
        ("tf32", "small", 2500),
        ("tf32", "large", 2500),
        ("ieee", "any", 16),
    ):
        for back, name in enumerate(("forward", "backward")):
            m, n, gates, sampled, warps, stages = imagine.tile(rows, card, kind, bool(back))
            blocks = {"M": m, "N": n, "GATES": gates, "SAMPLED": sampled, "BLOCK_K": imagine.INPUTS, "PRECISION": kind}
            kernel, options = getattr(imagine_passes, name), {"num_warps": warps, "num_stages": stages}
            constants = {**sizes, **at, **blocks, **(actor | biases)}
            constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
            options |= {"launch_cooperative_grid": True, "maxnreg": imagine.REGISTERS[kind]}
            yield (
                f"imagine {name} {kind} {card} tiles",
                kernel,
                signature(kernel, constants, **types),
                constants,
                options,
            )


def observes():
    """Those of filtering, forward and backward; of backward also one without the gradients that a loss may lack."""
    inner = {"S": 30, "A": 12, "D": 200, "U": 200, "V": 200, "SEEN": 456, "WIDTH": 32, "A_WIDTH": 16}
    to = {"TO_X": 0, "TO_I": 200, "TO_H": 800, "TO_U": 1400, "TO_O": 1600, "WIDE": 1920}
    numbers = (
        "from_embedding actions noise w_inp b_inp w_ih w_hh b_ih b_hh w_hidden w_out b_out stoch deter mean std slope "
        "inputs before x gates u d_stoch d_deter d_mean d_std from_prior d carry raw"
    )
    given = {"p_fp32": numbers, "fp32": "min_std", "p_i1": "is_first", "p_i32": "counter"}
    for way in ("_forward", "_backward"):
        kernel, constants = getattr(normal, way), {"S": 30, "BLOCK": normal.BLOCK}
        yield f"normal{way}", kernel, signature(kernel, constants, **given), constants, {}
        kernel = getattr(observe, way)
        for kind in ("tf32", "ieee"):
            options = observe.options(kind)
            constants = {**inner, **to, "M": observe.ROWS, "N": observe.COLUMNS, **options}
            constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
            options = {name: value for name, value in options.items() if name not in constants}
            yield f"observe{way} {kind}", kernel, signature(kernel, constants, **given), constants, options
    less = {"d_mean": None, "d_std": None, "from_prior": None, "d_mean_row": 0, "d_std_row": 0}
    yield "observe_backward of states", kernel, signature(kernel, constants | less, **given), constants | less, options


NOT_ALIGNED = {
    "action_step",
    "action_row",
    "first_row",
    "d_stoch_row",
    "d_deter_row",
    "d_mean_row",
    "d_std_row",
    "stream",
    "first_step",
    "columns",
    "rows",
    "width",
    "units",
    "actions",
    "stoch",
    "deter",
    "steps",
    "rest",
    "candidates",
    "size",
    "elites",
    "tensors",
    "parts",
    "length",
    "periods",
    "g_stoch_stride",
    "g_deter_stride",
    "g_actions_stride",
    "g_mean_stride",
    "g_std_stride",
    "partial_stride",
    "raw_stride",
    "p_stride",
    "p_std_stride",
    "q_stride",
    "q_std_stride",
    "mean_stride",
    "std_stride",
    "noise_stride",
    "grad_stride",
}
"""Numbers that need not be multiples of 16; pointers, strides and padded sizes are."""


def assemble(ptx, architecture):
    """What the bundled assembler says: registers, bytes spilled, remarks."""
    assembler = get_ptxas(*[architecture][: len(inspect.signature(get_ptxas).parameters)])
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        target = re.search(r"\.target (\w+)", ptx).group(1)
        command = [assembler.path, "-v", f"--gpu-name={target}", file.name, "-o", "/dev/null"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stderr


def results(number):
    """Of the kernel of that number: a dictionary for each architecture."""
    name, kernel, types, constants, options = list(kernels())[number]
    options = {"enable_fp_fusion": True, **options}  # as launches ask for it
    several = not name.startswith(("tf32", "ieee")) and " ieee " not in name
    if several:
        # A number that happens to be 1 is a constant.
        ones = {n: 1 for n, kind in types.items() if kind == "i32" and n in NOT_ALIGNED}
        source = ASTSource(kernel, types | dict.fromkeys(ones, "constexpr"), {**constants, **ones})
        triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    aligned = [n for n, kind in types.items() if kind.startswith("*") or (kind == "i32" and n not in NOT_ALIGNED)]
    marks = {(kernel.arg_names.index(n),): [["tt.divisibility", 16]] for n in aligned}
    found = []
    # What follows from the architecture alone shows with bf16; one of each generation of instructions will do else.
    # Large tiles are for the cards that they are chosen for.
    large = " large " in name
    for architecture in (90, 100) if large else ARCHITECTURES if several else (80, 90):
        source = ASTSource(kernel, types, constants, marks)
        compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
        ptx = compiled.asm["ptx"]
        said = assemble(ptx, architecture)
        about = {
            "kernel": name,
            "architecture": architecture,
            "bytes": len(compiled.asm["cubin"]),
            "shared": compiled.metadata.shared,
            "registers": int(re.search(r"Used (\d+) registers", said).group(1)),
            "spilled": sum(int(n) for n in re.findall(r"(\d+) bytes spill (?:stores|loads)", said)),
            "wgmma": ptx.count("wgmma.mma_async"),
            "serialised": "serializ" in said,
            "fused": ptx.count("fma.rn.f32"),
        }
        found.append(about)
    return found


def main():
    # Fresh processes: Triton's compiler has threads of its own.
    with ProcessPoolExecutor(machine.cores(), multiprocessing.get_context("spawn")) as pool:
        names = [name for name, *_ in kernels()]
        wanted = [i for i, name in enumerate(names) if not sys.argv[1:] or any(word in name for word in sys.argv[1:])]
        for found in pool.map(results, wanted):
            for about in found:
                print(json.dumps(about), flush=True)


if __name__ == "__main__":
    main()
