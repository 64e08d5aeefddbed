"""What every state can do: rows reset, copies, moves, files; nested states and tuples included."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from hf_moshi_ttt.configuration_moshi_ttt import TTTConfig
from hf_moshi_ttt.transformer.stream_state import StreamState

from ..fixtures.ttt_cases import EVERY_LEARNER, make_input, make_layer
from ..fixtures.written_over import write_zeros_over


@dataclass
class Inner(StreamState):
    values: tuple[Tensor, ...]


@dataclass
class Outer(StreamState):
    inner: tuple[Inner, ...]
    missing: tuple[Inner, ...] | None
    count: Tensor


def make_outer(rows: int = 3) -> Outer:
    inner = Inner((torch.randn(rows, 2), torch.randn(rows, 2, 2)))
    return Outer((inner, inner), None, torch.arange(1, rows + 1))


def test_tensors_are_named_by_their_place() -> None:
    names = ["inner.0.values.0", "inner.0.values.1", "inner.1.values.0", "inner.1.values.1", "count"]
    assert list(make_outer().named_tensors()) == names
    assert make_outer().batch_size == 3
    assert make_outer().num_bytes() == 3 * (2 * (2 + 4) * 4 + 8)


def test_map_keeps_the_structure_and_sees_the_names() -> None:
    state, seen = make_outer(), []
    doubled = state.map(lambda name, tensor: seen.append(name) or 2 * tensor)
    assert seen == list(state.named_tensors()) and isinstance(doubled.inner[1], Inner) and doubled.missing is None
    for name, tensor in doubled.named_tensors().items():
        assert torch.equal(tensor, 2 * state.named_tensors()[name])


def test_reset_clears_the_chosen_rows() -> None:
    state = make_outer()
    chosen, everyone = state.reset(torch.tensor([False, True, False])), state.reset()
    for name, tensor in state.named_tensors().items():
        assert torch.equal(chosen.named_tensors()[name][[0, 2]], tensor[[0, 2]])
        assert not chosen.named_tensors()[name][1].any() and not everyone.named_tensors()[name].any()
    with pytest.raises(ValueError, match=r"bool tensor of 3 values, one a row; got torch.bool of shape \[2\]"):
        state.reset(torch.tensor([True, False]))


def test_clone_and_detach_share_nothing() -> None:
    state = make_outer().map(lambda _, x: x.float().requires_grad_() * 1)
    assert not any(x.requires_grad for x in state.detach().named_tensors().values())
    pointers = {x.data_ptr() for x in state.named_tensors().values()}
    assert not pointers & {x.data_ptr() for x in state.clone().named_tensors().values()}


@pytest.mark.parametrize("options", EVERY_LEARNER, ids=str)
@pytest.mark.parametrize("frames", [0, 3, 4, 11])
def test_a_layers_state_is_saved_and_goes_on_exactly(options: dict, frames: int, tmp_path: Path) -> None:
    layer, x = make_layer(torch.float32, **options), make_input(30, dtype=torch.float32)
    state = layer(x[:, :frames]).state if frames else layer.init_state(3)
    state.save(tmp_path / "memory.safetensors", layer.config)
    loaded = layer.init_state(3).load(tmp_path / "memory.safetensors", layer.config)
    assert torch.equal(layer(x[:, frames:], loaded).output, layer(x[:, frames:], state).output)
    assert all(torch.equal(tensor, loaded.named_tensors()[name]) for name, tensor in state.named_tensors().items())


def test_a_loaded_state_does_not_change_with_its_file(tmp_path: Path) -> None:
    layer, path = make_layer(torch.float32), tmp_path / "memory.safetensors"
    state = layer(make_input(11, dtype=torch.float32)).state
    state.save(path, layer.config)
    loaded = layer.init_state(3).load(path, layer.config).named_tensors()
    write_zeros_over(path)
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in state.named_tensors().items())


def test_files_of_something_else_are_refused(tmp_path: Path) -> None:
    layer, path = make_layer(torch.float32, ttt_mlp_layers=2), tmp_path / "memory.safetensors"
    layer.init_state(3).save(path, layer.config)
    with pytest.raises(ValueError, match=r"delta_biases.0 is float32 \[3, 2, 1, 32\], but float32 \[2, 2, 1, 32\] in"):
        layer.init_state(2).load(path, layer.config)
    with pytest.raises(ValueError, match=r"delta_biases.0 is float32 \[3, 2, 1, 32\], but float64 .* size and dtype"):
        layer.double().init_state(3).load(path, layer.config)
    with pytest.raises(ValueError, match="saved with mini_batch_size=4, but the model has mini_batch_size=8"):
        layer.init_state(3).load(path, TTTConfig(preset="mini_batch", mini_batch_size=8, ttt_mlp_expansion_factor=2))
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="format None, but a saved state is 'moshi_ttt_state_v2'"):
        layer.init_state(3).load(path, layer.config)


@pytest.mark.parametrize("length", [0, 7, 100, 2000])
def test_a_file_that_is_not_whole_is_refused_by_name(tmp_path: Path, length: int) -> None:
    layer, path = make_layer(torch.float32, ttt_mlp_layers=2), tmp_path / "memory.safetensors"
    layer.init_state(3).save(path, layer.config)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"memory.safetensors: damaged or no saved state \(.*\). Take another copy"):
        layer.init_state(3).load(path, layer.config)


def test_values_that_may_differ_do_not_stop_a_load(tmp_path: Path) -> None:
    layer, path = make_layer(torch.float32, ttt_mlp_layers=2), tmp_path / "memory.safetensors"
    layer.init_state(1).save(path, layer.config)
    other = TTTConfig(
        preset="mini_batch", mini_batch_size=4, ttt_mlp_expansion_factor=2, initial_gating_alpha=0.5, layers="all"
    )
    layer.init_state(1).load(path, other)


@pytest.mark.parametrize("options", EVERY_LEARNER, ids=str)
def test_bytes_are_known_before_anything_runs(options: dict) -> None:
    layer = make_layer(torch.float32, **options)
    assert layer.init_state(3, device="meta").num_bytes() == layer.init_state(3).num_bytes()
    assert layer(make_input(9, dtype=torch.float32)).state.num_bytes() == layer.init_state(3).num_bytes()


def test_a_state_of_the_first_release_is_read(tmp_path: Path) -> None:
    """It calls the position in the mini-batch `place`."""
    layer = make_layer()
    state, path = layer(make_input(5)).state, tmp_path / "memory.safetensors"
    state.save(path, layer.config)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    named = {name.replace("position", "place"): tensor for name, tensor in load_file(path).items()}
    assert "place" in named
    save_file(named, path, metadata=metadata)
    assert torch.equal(layer.init_state(len(state.position)).load(path, layer.config).position, state.position)
