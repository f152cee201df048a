"""Cut matrix products into blocks of rows whose terms fit a limit of memory.

x @ y of (..., M, K) and (..., K, N) has M * N * K terms a batch, and each is a ciphertext: 32
tokens, twice, in 64 dimensions are 1 GiB. Rows of x do not meet, so that

    x @ y = Concat(x[rows] @ y for each block of rows)

and what is looked up for y alone is the same in every block, found once by `common_values`.

Worked example: (1, 4, 8) @ (1, 8, 16) has 512 terms; with room for 256 it is two blocks of 2 rows.
"""

from __future__ import annotations

import math

from torusformer.fhe_compile.passes.options import PassOptions
from torusformer.fhe_compile.program.nodes import Concat, MatMul, Node, Program, Slice
from torusformer.fhe_compile.program.ranges import Interval

CIPHERTEXT_BYTES = 16 * 1024  # at the dimension of tables of up to 5 bits


def tile_products(program: Program, options: PassOptions) -> Program:
    """The same program in which no product has more terms than fit, but for one row's."""
    ranges = program.ranges
    nodes: list[Node] = []
    for node in program.nodes:
        x = ranges[node.inputs[0]] if isinstance(node, MatMul) else None
        rows = x.shape[-2] if x is not None else 0
        if x is None or rows < 2:
            nodes.append(node)
            continue
        *_, out_rows, columns = ranges[node.name].shape
        batch = math.prod(ranges[node.name].shape[:-2])
        row_bytes = batch * columns * x.shape[-1] * CIPHERTEXT_BYTES
        block = max(1, options.memory_limit // row_bytes)
        nodes += [node] if block >= out_rows else _tiled(node, x, block)
    return program.rewritten(nodes)


def _tiled(node: Node, x: Interval, block: int) -> list[Node]:
    name, layer, rank, rows = node.name, node.layer, len(x.shape), x.shape[-2]
    nodes: list[Node] = []
    for start in range(0, rows, block):
        starts = (*(0,) * (rank - 2), start, 0)
        ends = (*x.shape[:-2], min(start + block, rows), x.shape[-1])
        part = Slice(f"{name}.rows{start}", layer, (node.inputs[0],), starts, ends, (1,) * rank)
        product = MatMul(f"{name}.tile{start}", layer, (part.name, node.inputs[1]))
        nodes += [part, product]
    tiles = tuple(n.name for n in nodes if isinstance(n, MatMul))
    return [*nodes, Concat(name, layer, tiles, rank - 2)]
