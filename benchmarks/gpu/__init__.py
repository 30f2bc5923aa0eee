"""The GPU benchmark, in rooms: `work` is timed in the ways of `variants`, after `checks`; `table` tells the result.

`bench` takes one piece of work from building to timing, `timing` holds the clocks, and `cli` the options.
`python benchmarks/gpu.py` runs it. That file and this folder share a name, and Python takes a package before a file:
`import gpu` finds this folder, from the command and from the tests alike.
"""
