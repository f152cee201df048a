"""Every notebook runs from top to bottom and is stored with its outputs."""

from __future__ import annotations

import itertools
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_there_is_a_notebook() -> None:
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_is_stored_with_readable_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [c for c in notebook.cells if c.cell_type == "code"]
    assert all(c.execution_count for c in cells)
    assert not [o for c in cells for o in c.outputs if o.output_type == "error"]
    kinds = {kind for c in cells for o in c.outputs for kind in o.get("data", {})}
    assert "image/png" in kinds
    text = "".join(o.get("text", "") for c in cells for o in c.outputs)
    assert str(ROOT) not in text and "Warning" not in text


# What is long in a notebook, and what the test puts there: fewer epochs, channels and tokens.
SHORTER = {
    "01_digits_end_to_end": {
        "float_epochs=60, qat_epochs=60": "float_epochs=4, qat_epochs=2",
        "dim=16, mlp_dim=16": "dim=4, mlp_dim=4",
        "compile_program(program)": "compile_program(program, 2**-20)",
    },
    "02_encrypted_generation": {
        '"words", "tiny-words"': '"words", "tiny-words", data=Path({}), context=2, epochs=1',
        '"re", count=4': '"r", count=1',
        "compile_decoder(decoder)": "compile_decoder(decoder, 2**-20)",
    },
    "03_sentences": {
        "changed(epochs=30)": "changed(epochs=2)",
        "load_prices(), EXACT)": "load_prices(), 2**-20)",
        '"clever plot", "the cast is so dull", "a warm and funny film"': '"clever plot", "dull"',
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_runs(path: Path, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("\n".join(map("".join, itertools.product("re", repeat=5))))
    notebook = nbformat.read(path, as_version=4)
    for long, short in SHORTER[path.stem].items():
        cells = [cell for cell in notebook.cells if long in cell.source]
        assert cells, f"{path.name} no longer says {long!r}: what shortens it now?"
        for cell in cells:
            cell.source = cell.source.replace(long, short.format(repr(str(tmp_path / "words.txt"))))
    client = NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}
    )
    client.execute()
