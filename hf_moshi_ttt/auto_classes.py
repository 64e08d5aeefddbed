"""Registers the model with transformers' auto classes once transformers is imported, so that nothing heavy comes first.

`import hf_moshi_ttt` alone imports neither torch nor transformers. `AutoModel.from_pretrained` must know the model all
the same, whichever of the two packages is imported first. The code that travels with a published model does not
register itself: transformers would prefer it to the code of every model that is loaded after it.
"""

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_PACKAGE = __name__.partition(".")[0]


def register_with_transformers() -> None:
    """Registers at once if transformers is imported already, and otherwise as soon as it is."""
    if "transformers" in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _ImportWatch())


def _register() -> None:
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoProcessor

    from .configuration_moshi_ttt import MoshiTTTConfig
    from .modeling_moshi_ttt import MoshiTTTForConditionalGeneration
    from .processing_moshi_ttt import MoshiTTTProcessor

    AutoConfig.register(MoshiTTTConfig.model_type, MoshiTTTConfig)
    for auto_class in (AutoModel, AutoModelForCausalLM):  # those of transformers' own Moshi
        auto_class.register(MoshiTTTConfig, MoshiTTTForConditionalGeneration)
    AutoProcessor.register(MoshiTTTConfig, MoshiTTTProcessor)


class _ImportWatch(MetaPathFinder):
    """Waits for transformers, and then for the end of the import of this package that may have asked for it."""

    def __init__(self) -> None:
        self._running = 0

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """What the other finders find, watched."""
        if name != "transformers" and not name.startswith(f"{_PACKAGE}."):
            return None
        found = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            self._watch(spec.loader)
        return spec

    def _watch(self, loader: Loader) -> None:
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            self._running += 1
            try:
                execute(module)
            finally:
                self._running -= 1
            if self._running == 0 and "transformers" in sys.modules and self in sys.meta_path:
                sys.meta_path.remove(self)
                _register()

        loader.exec_module = exec_module  # type: ignore[method-assign]
