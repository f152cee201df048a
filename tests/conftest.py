"""Every test counts with the shipped prices, whatever this user has calibrated; keys are shared."""

import json
import os
from collections import OrderedDict

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores
    os.environ["OMP_NUM_THREADS"] = "1"

KEPT = 4  # sets of keys, of up to 250 MiB


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, the others fill what is left of the workers' time."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True, scope="session")
def no_calibration(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True, scope="session")
def equal_keys_are_made_once():
    """Circuits whose keys have equal parameters share them; `keygen(force=True)` makes others."""
    from concrete.fhe.compilation.keys import Keys

    generate, made = Keys.generate, OrderedDict()

    def shared(self: Keys, force: bool = False, **seeds: object) -> None:
        if force or self.are_generated:
            generate(self, force, **seeds)
            return
        kind = json.dumps(json.loads(self._specs.program_info.serialize())["keyset"])
        if kind not in made:
            generate(self)
            made[kind] = self._keyset
        self._keyset = made[kind]
        made.move_to_end(kind)
        while len(made) > KEPT:
            made.popitem(last=False)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Keys, "generate", shared)
        yield
