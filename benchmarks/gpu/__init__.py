"""The GPU benchmark, in rooms: `work` is timed in the ways of `variants`, after `checks`; `table` tells the result.

`python benchmarks/gpu.py` runs it: the file of the same name beside this folder, which Python finds second.
"""
