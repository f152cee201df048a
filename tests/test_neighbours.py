"""A window of neighbours: what each token reads of those before it, at no bootstrap."""

from dataclasses import replace

import pytest
import torch

from tests.decoders import program, quantized
from torusformer import InputError
from torusformer.fhe_compile import plan
from torusformer.fhe_compile.passes.options import PassOptions
from torusformer.fhe_compile.passes.refresh_wires import refresh_wires
from torusformer.fhe_compile.prices.cost import load_prices
from torusformer.fhe_compile.program.nodes import Port, Program, Reshape
from torusformer.models import ModelConfig, Transformer
from torusformer.models.neighbours import rows_before

WINDOWED = "tiny-signs"  # a window of three tokens


def test_each_token_reads_those_before_it():
    weight = torch.randn(3, 5, 2)
    tokens = torch.tensor([[1, 4, 0, 2], [3, 3, 1, 0]])
    found = sum(rows_before(weight, tokens))
    for text, row in zip(tokens.tolist(), found, strict=True):
        for t in range(4):
            told = [weight[j, text[t - 1 - j]] for j in range(3) if t - 1 - j >= 0]
            assert torch.allclose(row[t], sum(told, torch.zeros(2)))


@pytest.mark.parametrize("known", [1, 2, 3])
def test_tokens_that_came_before_count(known: int):
    weight, text = torch.randn(3, 5, 2), torch.tensor([[1, 4, 0, 2, 3]])
    whole = sum(rows_before(weight, text))
    before = text[:, :known].split(1, dim=1)
    assert torch.allclose(sum(rows_before(weight, text[:, known:], before)), whole[:, known:])


def test_a_token_does_not_read_those_behind_it():
    torch.manual_seed(0)
    model = Transformer(ModelConfig.from_name(WINDOWED).replace(tokens=3)).eval()
    one, other = torch.tensor([[1, 2, 3]]), torch.tensor([[1, 2, 4]])
    assert torch.equal(model(one)[:, :2], model(other)[:, :2])
    assert not torch.equal(model(one)[:, 2], model(other)[:, 2])


def test_the_window_ends():
    """Without attention, the logits of a token depend on as many tokens as the window holds."""
    torch.manual_seed(0)
    config = ModelConfig.from_name(WINDOWED).replace(tokens=5, layers=1)
    model = Transformer(config).eval()
    with torch.no_grad():
        model.blocks[0].attention.out.weight.zero_()
    near, far = torch.tensor([[1, 2, 3, 4, 5]]), torch.tensor([[1, 7, 3, 4, 5]])
    assert torch.equal(model(near)[:, 4], model(far)[:, 4])
    assert not torch.equal(model(near)[:, 3], model(far)[:, 3])


def test_steps_take_the_tokens_that_the_window_reaches_and_leave_theirs():
    steps = program(WINDOWED).steps
    taken = [sorted(p.name for p in s.inputs if p.name.startswith("token.")) for s in steps]
    left = [[p.name for p in s.outputs if p.name.startswith("token.")] for s in steps]
    assert taken == [[], ["token.0"], ["token.0", "token.1"]]
    assert left == [["token.0"], ["token.1"], []]


def test_neighbours_cost_no_bootstrap():
    """The step of a model without a window has as many, but for what trained weights make dead."""
    config = ModelConfig.from_name(WINDOWED)
    assert config.window == 3 and quantized(WINDOWED).model_config.window == 3
    up = [row for row in plan(program(WINDOWED).steps[2]).rows if ".up" in row.layer]
    assert not up


def test_what_leaves_as_it_came_is_not_looked_up_again():
    token = Port("token", (1, 3), 0, 1, one_hot=True)
    passed = Program(
        (token,), (replace(token, name="token.0"),), (Reshape("token.0", "t", ("token",), (1, 3)),)
    )
    options = PassOptions(load_prices(), wired=frozenset({"token.0"}))
    assert refresh_wires(passed, options) is passed


@pytest.mark.parametrize("changes", [{"gated": True}, {"num_classes": 2}])
def test_a_window_elsewhere_is_refused(changes: dict):
    with pytest.raises(InputError, match="window is 3 and only a decoder whose MLP has no gate"):
        ModelConfig.from_name(WINDOWED).replace(**changes)


def test_a_window_of_one_is_none():
    with pytest.raises(InputError, match="window is 1"):
        ModelConfig.from_name(WINDOWED).replace(window=1)
