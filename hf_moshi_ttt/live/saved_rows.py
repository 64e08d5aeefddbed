"""The rows of a session as files: a whole stream that goes on, or its memory for another conversation."""

import math
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from ..codec.pretrained_codec import codec_sha256
from ..streaming.generation_moshi_ttt import Sampling
from .fingerprint import Fingerprint, fingerprint
from .memory_file import MEMORY_PREFIX, Manifest, read_manifest, read_memory_file, write_memory_file


class SavedRowsMixin:
    """Saving, loading and restoring for `MoshiTTTSession`."""

    if TYPE_CHECKING:  # what the session has
        model: Any
        processor: Any
        sampling: Sampling
        user_stream: str
        state: Any
        codec: Any
        seeds: list[int]
        generators: list[torch.Generator]
        memory_frames: list[int]
        memory_on_B: Tensor
        write_strength_LB: Tensor
        texts: Any
        checked_row: Any
        memory_stats: Any
        reset: Any

    @cached_property
    def identity(self) -> tuple[Fingerprint, str]:
        """The hashes of the model and of the codec; the first use reads all weights (about 1 s a GB)."""
        return fingerprint(self.model), codec_sha256(self.processor.codec)

    def save(self, path: str | Path, row: int = 0, memory_only: bool = False) -> None:
        """Writes a row to a safetensors file that `load` and `restore` go on from.

        Args:
            memory_only: whether to keep only what its memories have learned, for another conversation: no window, no
                codes, no draws. Such a file also fits the same model in another dtype.
        """
        row = self.checked_row(row)
        tensors = {name: tensor[row : row + 1] for name, tensor in self._tensors().items()}
        if memory_only:
            tensors = {name: tensor for name, tensor in tensors.items() if name.startswith(MEMORY_PREFIX)}
        write_memory_file(path, tensors, self._manifest(row, memory_only))

    def _tensors(self) -> dict[str, Tensor]:
        """All that the streams remember in tensors with a row each, by the names they have in a file."""
        state = {f"state.{name}": tensor for name, tensor in self.state.named_tensors().items()}
        return {**state, **{f"codec.{name}": tensor for name, tensor in self.codec.tensors().items()}}

    def _manifest(self, row: int, memory_only: bool) -> Manifest:
        model, codec = self.identity
        kind, heard = "memory" if memory_only else "session", self.memory_frames[row]
        manifest = Manifest(kind, model.exact, model.portable, codec, heard, self.memory_stats(row))
        if memory_only:
            return manifest
        return replace(
            manifest,
            seed=self.seeds[row],
            generator_device=self.model.device.type,
            generator=self.generators[row].get_state().numpy().tobytes().hex(),
            memory_on=bool(self.memory_on_B[row]),
            sampling=asdict(replace(self.sampling, generator=None)),
            text_bytes=self.texts[row].unfinished.hex(),
            user_stream=self.user_stream,
        )

    @classmethod
    def load(cls, path: str | Path, model: Any, processor: Any, **options: Any) -> Self:
        """A session of one row that goes on from a file, bit for bit where the file holds a whole stream.

        Args:
            options: further ones of the class; a whole stream draws as it did, and has the user's codes that it had
                without a user, unless `sampling` or `user_stream` is among them.

        Raises:
            ValueError: as in `restore`.
        """
        manifest = read_manifest(path)
        saved = {"sampling": saved_sampling(path, manifest), "user_stream": manifest.user_stream}
        given = {name: value for name, value in options.items() if value is not None}
        session: Any = cls(model, processor, **{**saved, **given})  # type: ignore[call-arg]
        session.restore(path, other_sampling=not saved.keys().isdisjoint(given))
        return session

    @torch.no_grad()
    def restore(self, path: str | Path, row: int = 0, *, other_sampling: bool = False) -> None:
        """Makes a row the stream of a file, or a fresh stream with the memory of a file; the others do not change.

        A whole stream continues bit for bit. Its draws do on the kind of device they were saved on; elsewhere they
        start again from their seed.

        Args:
            other_sampling: whether a whole stream that had another may go on with the session's sampling and
                `user_stream`, which all rows share; it is refused if not.

        Raises:
            ValueError: a file that is missing, damaged or foreign, of another model or codec, or a stream of another
                sampling or `user_stream`. Nothing has changed then.
        """
        row, manifest = self.checked_row(row), read_manifest(path)
        self._require_same_model(path, manifest)
        if not other_sampling:
            self._require_same_sampling(path, manifest)
        whole, own = manifest.kind == "session", self._tensors()
        expected = {name: torch.empty_like(tensor[:1], device="meta") for name, tensor in own.items()}
        if not whole:
            expected = {name: tensor for name, tensor in expected.items() if name.startswith(MEMORY_PREFIX)}
        generator = self._saved_generator(path, manifest)
        tensors = read_memory_file(path, expected, manifest, self.model.initial_codes())
        self.reset(row, seed=manifest.seed if whole else None)
        self.generators[row] = generator or self.generators[row]
        for name, tensor in tensors.items():
            own[name][row] = tensor[0].to(own[name].device)
        self.memory_frames[row], self.memory_on_B[row] = manifest.memory_frames, manifest.memory_on
        self.texts[row].resume(bytes.fromhex(manifest.text_bytes))
        for layer, saved in enumerate(manifest.layers):
            written = saved["write_strength"]
            self.write_strength_LB[layer, row] = math.nan if written is None else written

    def _saved_generator(self, path: str | Path, manifest: Manifest) -> torch.Generator | None:
        """A generator that goes on from the saved draws; None where they are made on another kind of device."""
        device = self.model.device
        if manifest.kind != "session" or manifest.generator_device != device.type:
            return None
        generator = torch.Generator(device)
        try:
            return generator.set_state(torch.tensor(list(bytes.fromhex(manifest.generator)), dtype=torch.uint8))
        except (RuntimeError, TypeError) as error:
            raise ValueError(
                f"{path}: the state of its draws is none of {device.type}'s. Take another copy."
            ) from error

    def _require_same_sampling(self, path: str | Path, manifest: Manifest) -> None:
        saved = saved_sampling(path, manifest)
        if saved is not None and saved != self.sampling:
            raise ValueError(
                f"{path}: its stream was drawn with {saved}, but this session draws with {self.sampling}. Open it with "
                "MoshiTTTSession.load, give the session that sampling, or allow another: other_sampling=True."
            )
        if manifest.user_stream not in (None, self.user_stream):
            raise ValueError(
                f"{path}: its stream has user_stream={manifest.user_stream!r}, but this session {self.user_stream!r}. "
                "Open it with MoshiTTTSession.load, give the session that one, or allow another: other_sampling=True."
            )

    def _require_same_model(self, path: str | Path, manifest: Manifest) -> None:
        model, codec = self.identity
        whole = manifest.kind == "session"
        found, expected = (manifest.model_exact, model.exact) if whole else (manifest.model_portable, model.portable)
        if found != expected:
            raise ValueError(
                f"{path}: belongs to another model (hash {str(found)[:8]}, but this one has {expected[:8]}). Load the "
                "model that it was saved with" + (", in the same dtype." if whole else ".")
            )
        if manifest.codec_sha256 != codec:
            raise ValueError(
                f"{path}: belongs to another codec (sha256 {str(manifest.codec_sha256)[:8]}, but this one has "
                f"{codec[:8]}). Load the codec that it was saved with."
            )
        if [layer["layer"] for layer in manifest.layers] != self.model.config.ttt_layer_indices:
            raise ValueError(f"{path}: its manifest lists other layers than the model has memories in. Take another.")


def saved_sampling(path: str | Path, manifest: Manifest) -> Sampling | None:
    """How the stream of a file draws its codes; None for a memory alone.

    Raises:
        ValueError: settings that none can be.
    """
    saved = manifest.sampling
    try:
        return None if saved is None else Sampling(**saved)
    except TypeError as error:
        raise ValueError(f"{path}: its manifest has sampling={saved}, which none can be.") from error
