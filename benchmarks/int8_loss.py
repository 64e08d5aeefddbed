"""What int8 weights cost in loss: a trained model on held-out recordings, as it is and quantized.

    python benchmarks/int8_loss.py runs/demo/pretrain runs/demo/codes/librilight_heldout    # needs torchao

The weights of linear layers outside of TTT layers are quantized by torchao, as in docs/gpu.md. Losses are nats a code.
"""

import argparse

import torch

from hf_moshi_ttt import MoshiTTTForConditionalGeneration
from hf_moshi_ttt.data.codes import load_codes
from hf_moshi_ttt.data.collator import MoshiTTTCollator


@torch.no_grad()
def losses(model: MoshiTTTForConditionalGeneration, codes: str, recordings: int, frames: int) -> torch.Tensor:
    """The mean loss of each recording's first frames, `[recordings]`."""
    dataset, provenance = load_codes(codes)
    collator = MoshiTTTCollator(model.config, provenance.silence_codes, only_model_inputs=True)
    found = []
    for index in range(min(recordings, len(dataset))):
        batch = collator([{"codes": dataset[index]["codes"][:, :frames]}])
        loss = model.eval()(**batch).loss
        assert loss is not None
        found.append(loss)
    return torch.stack(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a trained model")
    parser.add_argument("codes", help="folder of encoded recordings that it was not trained on")
    parser.add_argument("--recordings", type=int, default=20, help="how many (%(default)s)")
    parser.add_argument("--frames", type=int, default=500, help="the first ones of each (%(default)s)")
    arguments = parser.parse_args()
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    given = arguments.codes, arguments.recordings, arguments.frames
    whole = losses(MoshiTTTForConditionalGeneration.from_pretrained(arguments.model), *given)
    config = TorchAoConfig(Int8WeightOnlyConfig())
    quantized = losses(
        MoshiTTTForConditionalGeneration.from_pretrained(arguments.model, quantization_config=config), *given
    )
    less, spread = (quantized - whole).mean().item(), (quantized - whole).std().item()
    print(f"{len(whole)} recordings: float32 {whole.mean():.4f}   int8 {quantized.mean():.4f}")
    print(f"int8 less float32 {less:+.5f} ({100 * less / whole.mean():+.3f}%), spread over recordings {spread:.5f}")


if __name__ == "__main__":
    main()
