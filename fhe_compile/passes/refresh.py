"""Look narrow results up once more before a sum that is read at high precision.

Concrete has one set of parameters for all tables of a width. Where some of them write into a wide
sum, all of them need the precise set, at twice the price. An identity table of their narrow result
has a width of its own: it alone is precise then, and those before it are cheap.

Worked example: 400 tables of 4 bits, 60 of which give two bits each to logits of 8 bits: 460
lookups, 60 of them precise and of 2 bits, in place of 400 precise ones of 4 bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from torusformer.fhe_compile.passes.options import PassOptions
from torusformer.fhe_compile.passes.sink_rounds import identity_table
from torusformer.fhe_compile.program.antiperiod import bits_read
from torusformer.fhe_compile.program.nodes import (
    AddConst,
    Linear,
    Node,
    Program,
    Reshape,
    Round,
    Scale,
    Table,
    Transpose,
)
from torusformer.fhe_compile.program.ranges import Interval

WIDEST = 3  # bits of a result that may be worth a second table
FAR = 12.0  # the precision of logits: no sum of a hidden layer comes near it
PRECISE = 7.0  # at which tables of five bits are about to need the precise set


def refresh_outputs(program: Program, _: PassOptions | None = None) -> Program:
    """The same program with a second table before what is read at high precision.

    That is a `Linear` or `Scale` that only outputs read. An index that comes in is looked up once
    more, too, where it selects something wide: all that is summed up with it would have to be laid
    out as wide. Where it selects something narrow, that is looked up.
    """
    return _refreshed(program, math.inf)


def refresh_sums(program: Program, _: PassOptions | None = None) -> Program:
    """As `refresh_outputs`, and before each sum read at a high precision (docs/cost.md), too."""
    return _refreshed(program, PRECISE)


def refresh_shared(program: Program, _: PassOptions | None = None) -> Program:
    """As `refresh_outputs`, but only of what something else reads, too.

    What shares a ciphertext shares its layout: without a second table a narrow sum is laid out as
    wide as the logits that one of its terms also goes to, and all that writes into it is dear.
    """
    return _refreshed(program, FAR, shared=True)


def refresh_selected(program: Program, _: PassOptions | None = None) -> Program:
    """As `refresh_shared`, and the few bits that an index selects are looked up before all readers.

    An index has a ciphertext for each thing it selects from, so what it selects is noisy; by the
    layout that they share, everything that meets it, scores and weights of attention, would have to
    be as precise as the index. Keys and values leave looked up already: that is the same lookup.
    """
    return _refreshed(program, FAR, shared=True, selected=True)


def _refreshed(
    program: Program, limit: float, *, shared: bool = False, selected: bool = False
) -> Program:
    """Before sums that are read at a precision of `limit` or more; `shared` sources only.

    With `selected`, narrow selections of an index as well, however they are read.
    """
    ranges, made = program.ranges, {node.name: node for node in program.nodes}
    proved: dict[str, Interval] = {}
    indices = {port.name: port for port in program.inputs if port.one_hot}
    read = precision(program)
    readers = program.consumers()
    fresh: dict[tuple[str, bool], Table] = {}
    nodes: list[Node] = []
    for node in program.nodes:
        needed = read.get(node.name, 0.0) or math.inf  # an output is read as precisely as it is
        far = needed >= FAR
        source = node.inputs[0] if isinstance(node, Linear | Scale) else ""
        if needed < limit and not (selected and source in indices):
            source = ""
        index = source in indices and far
        narrow = source in indices and ranges[node.name].span_bits <= WIDEST
        if narrow and (selected or not far):
            # Few bits of many: cheaper to look up what was selected than what selects it.
            before = replace(node, name=f"{node.name}.selected")
            nodes += [before, identity_table(node.name, before.name, node.layer, ranges[node.name])]
            continue
        again = index or made_by_table(source, made)
        again = again and (not shared or len(readers[source]) > 1)
        if not again or ranges[source].span_bits > WIDEST:
            nodes.append(node)
            continue
        # One for each kind of reader: what shares a ciphertext shares its layout.
        if (source, far) not in fresh:
            name, layer = f"{source}.{'far' if far else 'fresh'}", node.layer
            copy = replace(identity_table(name, source, layer, ranges[source]), apart=far)
            fresh[source, far] = copy
            nodes.append(copy)
            if index:
                proved[name] = ranges[source]
        nodes.append(replace(node, inputs=(fresh[source, far].name,)))
    return program.rewritten(nodes, proved)


def precision(program: Program) -> dict[str, float]:
    """Of every value that a table or a rounding reads, directly or summed up: how precisely."""
    ranges, noise = program.ranges, squared_weights(program)
    readers, read = program.consumers(), dict[str, float]()

    def bits_of(node: Table | Round) -> int:
        """That it reads; a rounding no more than the rings of the tables behind it."""
        x, after = ranges[node.inputs[0]], readers.get(node.name, [])
        if isinstance(node, Table):
            return min(x.span_bits, bits_read(node.values, node.offset, x))
        behind = [bits_of(each) for each in after if isinstance(each, Table)]
        if not behind or len(behind) < len(after):  # read in full (`tfhe.encode`)
            return x.span_bits
        return min(x.span_bits, max(behind) + node.lsbs)

    for node in reversed(program.nodes):
        for name in node.inputs:
            needed = read.get(node.name, 0.0)
            if isinstance(node, Table | Round):
                needed = bits_of(node) + math.log2(max(1.0, noise[name])) / 2
            read[name] = max(read.get(name, 0.0), needed)
    return read


def squared_weights(program: Program, of_inputs: float = 1.0) -> dict[str, float]:
    """How many times the variance of a fresh table result each value has, at most.

    `of_inputs` is that of an input: none, or as if a table had made it.
    What `estimate.squared_weights` is for the operations of an encoding, before there is one.
    """
    noise = {port.name: of_inputs for port in program.inputs}
    for node in program.nodes:
        shapes = [program.ranges[name].shape for name in node.inputs]
        noise[node.name] = node.squared_weights([noise[name] for name in node.inputs], shapes)
    return noise


def made_by_table(name: str, made: Mapping[str, Node]) -> bool:
    """Whether the value is what a table gave, in whatever shape; `made` is every node by name."""
    return isinstance(made.get(_unshaped(name, made)), Table)


def passes_through(name: str, made: Mapping[str, Node]) -> bool:
    """Whether the value is an input, in whatever shape; `made` as in `made_by_table`."""
    return _unshaped(name, made) not in made


def is_fresh(name: str, made: Mapping[str, Node]) -> bool:
    """Whether the ciphertext is what a table gave, whatever is added in the clear."""
    while isinstance(node := made.get(_unshaped(name, made)), AddConst):
        name = node.inputs[0]
    return isinstance(node, Table)


def _unshaped(name: str, made: Mapping[str, Node]) -> str:
    """What a value was before it was given its shape."""
    while isinstance(node := made.get(name), Reshape | Transpose):
        name = node.inputs[0]
    return name
