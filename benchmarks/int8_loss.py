"""What int8 weights cost in loss: a small model is trained on streams that return, and evaluated before and after.

    python benchmarks/int8_loss.py                # needs torchao; minutes on one core

Linear layers outside of TTT layers are quantized by torchao's weight-only int8, as `from_pretrained` with
`TorchAoConfig(Int8WeightOnlyConfig())` does. Losses are nats a code of the held-out streams.
"""

import argparse

import torch
from torch import Tensor

from hf_moshi_ttt import MoshiTTTConfig, MoshiTTTForConditionalGeneration


def streams(config: MoshiTTTConfig, rows: int, frames: int, generator: torch.Generator) -> Tensor:
    """Codes `[B, K, T]` that repeat themselves every 12 frames and are drawn from few."""
    cycle = torch.randint(0, 24, (rows, config.num_streams, 12), generator=generator)
    return cycle.repeat(1, 1, -(-frames // 12))[:, :, :frames]


@torch.no_grad()
def loss(model: MoshiTTTForConditionalGeneration, codes: Tensor) -> float:
    found = model.eval()(codes=codes, labels=codes).loss
    assert found is not None
    return found.item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--steps", type=int, default=150)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    model = MoshiTTTForConditionalGeneration(MoshiTTTConfig.from_preset(arguments.preset, ttt={}))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    held_out = streams(model.config, 8, 96, generator)
    print(f"untrained {loss(model, held_out):.4f}", flush=True)
    for _ in range(arguments.steps):
        codes = streams(model.config, 4, 96, generator)
        found = model.train()(codes=codes, labels=codes).loss
        assert found is not None
        found.backward()
        optimizer.step()
        optimizer.zero_grad()
    trained = loss(model, held_out)
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(model, Int8WeightOnlyConfig(), lambda m, name: isinstance(m, torch.nn.Linear) and ".ttt." not in name)
    quantized = loss(model, held_out)
    print(f"trained {trained:.4f}   int8 {quantized:.4f}   difference {100 * (quantized / trained - 1):+.2f}%")


if __name__ == "__main__":
    main()
