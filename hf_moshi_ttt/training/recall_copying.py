"""What exact copying from everything heard would reach: the reference of the arm `copy`, which learns nothing.

At each frame the longest run of last frames that was heard before is searched for in all of the sequence so far; what
followed it there is a prediction. It is mixed with that of a model that sees a window (a cache beside a language model,
Grave et al. 2017, "Improving Neural Language Models with a Continuous Cache"; with matches of any length, Liu et al.
2024, "Infini-gram"):

    p(code) = w share + (1 - w) p_model(code),   w by codebook and length of the match

where the share is that of the code among what followed all longest matches. The weights of one half of the sequences
are fitted on the other half, so that what is gained is no fit to what it is measured on.

Axes: B sequences, Q codebooks, T frames.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

MOST_FRAMES = 12  # longer matches count as this long
_ITERATIONS = 200


def mix_with_copies(losses_BQT: Tensor, codes_BQT: Tensor, counted_BT: Tensor) -> Tensor:
    """The losses of a model whose predictions are mixed with copies, in nats.

    Args:
        losses_BQT: the model's own; a frame without a prediction is not finite, and stays so.
        counted_BT: whether a frame counts where weights are fitted.

    Raises:
        ValueError: less than two sequences, which cannot be fitted on one another.
    """
    if len(codes_BQT) < 2:
        raise ValueError(
            f"{len(codes_BQT)} sequence, but what copies weigh is fitted on others: give test_rows=2 or more."
        )
    matched_BT, share_BQT = find_copies(codes_BQT)
    model_BQT, mixed_BQT = losses_BQT.double().neg().exp(), losses_BQT.clone()
    is_counted_BQT = counted_BT[:, None] & losses_BQT.isfinite()
    for codebook in range(codes_BQT.shape[1]):
        for frames in range(1, MOST_FRAMES + 1):
            for half in (0, 1):
                fitted = _places(matched_BT == frames, 1 - half) & is_counted_BQT[:, codebook]
                mixed = _places(matched_BT == frames, half)
                weight = _fit_weight(model_BQT[:, codebook][fitted], share_BQT[:, codebook][fitted])
                p = weight * share_BQT[:, codebook][mixed] + (1 - weight) * model_BQT[:, codebook][mixed]
                mixed_BQT[:, codebook][mixed] = -p.log().to(mixed_BQT.dtype)
    return torch.where(losses_BQT.isfinite(), mixed_BQT, losses_BQT)


def find_copies(codes_BQT: Tensor) -> tuple[Tensor, Tensor]:
    """Of each frame, how many frames before it were heard before as they are, `[B, T]`, at most `MOST_FRAMES`; and
    the share `[B, Q, T]` of its codes among those that followed there, in float64. Both are 0 where nothing matches.
    """
    rows, _, length = codes_BQT.shape
    matched_BT = torch.zeros(rows, length, dtype=torch.long)
    share_BQT = torch.zeros(codes_BQT.shape, dtype=torch.float64)
    lengths_BT = torch.zeros(rows, length, dtype=torch.long)  # of the match that ends before each frame heard so far
    for t in range(1, length):
        same_BT = (codes_BQT[:, :, : t - 1] == codes_BQT[:, :, t - 1, None]).all(1)
        longer_BT = torch.where(same_BT, lengths_BT[:, : t - 1] + 1, 0).clamp_max(MOST_FRAMES)
        lengths_BT = F.pad(longer_BT, (1, 0))
        matched_BT[:, t] = lengths_BT.amax(1)
        followed_BT = (lengths_BT == matched_BT[:, t, None]) & (lengths_BT > 0)
        hits_BQ = ((codes_BQT[:, :, :t] == codes_BQT[:, :, t, None]) & followed_BT[:, None]).sum(2)
        share_BQT[:, :, t] = hits_BQ.double() / followed_BT.sum(1, keepdim=True).clamp_min(1)
    return matched_BT, share_BQT


def _places(wanted_BT: Tensor, half: int) -> Tensor:
    """Those of every second sequence."""
    is_half = torch.arange(len(wanted_BT)) % 2 == half
    return wanted_BT & is_half[:, None]


def _fit_weight(model_N: Tensor, share_N: Tensor) -> float:
    """The weight of copies that makes frames most likely, by expectation maximisation; 0 where there is no frame.

    It counts one frame more that was copied and one that was not, so that neither is impossible.
    """
    weight = 0.5 if len(model_N) else 0.0
    for _ in range(_ITERATIONS if weight else 0):
        copied_N = weight * share_N
        copied = float((copied_N / (copied_N + (1 - weight) * model_N)).sum())
        weight = (copied + 1) / (len(model_N) + 2)
    return weight
