"""A deployment in, the keys that its client holds out, for circuits that are to take the same ones.

A circuit compiled under the restriction to another's keyset may end with fewer keys, or in another
order: then the other's evaluation keys do not fit it, and it is refused here, not at its first run.
Source: Concrete's `keyset_restriction`, https://docs.zama.ai/concrete.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torusformer import ArtifactError
from torusformer.fhe_compile.circuit.backend import restriction_of
from torusformer.fhe_compile.circuit.concrete_options import CompileError
from torusformer.fhe_compile.deployment.archives import CLIENT
from torusformer.fhe_compile.deployment.decoder import DecoderInterface
from torusformer.fhe_compile.deployment.interface import FILE, Interface
from torusformer.fhe_compile.deployment.keyset import Keyset
from torusformer.fhe_compile.deployment.lengths import LengthsInterface
from torusformer.fhe_compile.deployment.security import check_security
from torusformer.fhe_compile.deployment.specification import Specification


@dataclass(frozen=True, eq=False)
class SharedKeys:
    """Keys that exist, or will: `keys_id` names them in every message, `keyset` lists them."""

    folder: Path
    keys_id: str
    keyset: Keyset
    restriction: Any  # of Concrete's optimizer to parameters of these keys

    def check(self, server: Any) -> None:
        """CompileError unless what was compiled takes exactly these keys."""
        compiled = Specification.from_json(server.program_info.serialize(), "the compiled circuit")
        if compiled.keyset == self.keyset:
            return
        mine = [key.params for key in self.keyset.evaluation]
        if any(key.params not in mine for key in compiled.keyset.evaluation):
            # Concrete lets go of a restriction under which it finds no parameters.
            raise CompileError(
                f"the keys of {self.folder} are too narrow for this circuit: its tables have more "
                f"bits, or its sums more noise; compile it without --keys-of, and the other one "
                f"with --keys-of this"
            )
        have, takes = len(self.keyset.lwe_bootstrap_keys), len(compiled.keyset.lwe_bootstrap_keys)
        raise CompileError(
            f"the circuit takes {takes} of the {have} bootstrap keys of {self.folder}, or takes "
            f"them in another order, so it cannot read that deployment's evaluation keys; compile "
            f"it without --keys-of, or compile the one that takes fewer kinds of keys first"
        )


def shared_keys(folder: str | Path) -> SharedKeys:
    """Of a deployment, of whichever kind; an ArtifactError for what is none."""
    folder = Path(folder)
    path = folder / FILE
    try:
        described = json.loads(path.read_bytes()[: 2**28])
        kind = described.get("format") if isinstance(described, dict) else None
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: is no deployment to take keys of; give another") from error
    kinds: tuple[type[Interface], ...] = (DecoderInterface, LengthsInterface)
    of = next((k for k in kinds if kind == k.FORMAT), Interface)
    interface = of.load(folder, CLIENT)
    check_security(interface.specification, str(folder / CLIENT))
    return SharedKeys(
        folder,
        interface.keys_id,
        interface.specification.keyset,
        restriction_of(interface.specification.to_json()),
    )
