"""Files of variants as material for recall tasks: codebook 0 of both forms, its ids grouped alike."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from ..codec.pretrained_codec import codec_sha256, load_codec
from ..data.variants import ORIGINAL, Form, load_variants
from ..memory.variant_tasks import RenderedRecording, Rendering
from .recall_speech import centroids, group_ids


def load_renderings(path: str, num_ids: int, codec: str | None = None) -> dict[str, list[RenderedRecording]]:
    """By form the recordings as they are and in that form, `[1, T]` each in `num_ids` ids.

    Args:
        path: file that `make-variants` wrote.
        num_ids, codec: as of `load_recordings`; the same give the same groups.

    Raises:
        ValueError: no such file, more ids than its codec has, or another codec than the one that made it.
    """
    codes, origin = load_variants(path)
    if not 2 <= num_ids <= origin.codebook_size:
        raise ValueError(f"num_ids={num_ids}, but {path} has {origin.codebook_size} ids: give 2 to that many.")
    groups_V = None
    if num_ids < origin.codebook_size:
        loaded = load_codec(codec or origin.codec)
        if codec_sha256(loaded) != origin.codec_sha256:
            raise ValueError(f"{path} was made with a codec of other weights than {codec or origin.codec!r} has now.")
        groups_V = group_ids(centroids(loaded), num_ids)

    def grouped(codes_QT: Tensor) -> Tensor:
        first_1T = codes_QT[:1].long()
        return first_1T if groups_V is None else groups_V[first_1T]

    first = [grouped(codes_QT) for codes_QT in codes[ORIGINAL]]
    return {
        name: [
            RenderedRecording(first_1T, [Rendering(grouped(again_QT), Form.parse(name).frame_of)])
            for first_1T, again_QT in zip(first, codes[name], strict=True)
        ]
        for name in origin.forms
    }


def with_all_forms(by_form: Mapping[str, Sequence[RenderedRecording]]) -> list[RenderedRecording]:
    """Every recording with all of its forms, of what `load_renderings` returned."""
    return [
        RenderedRecording(same[0].codes_QT, [form for each in same for form in each.forms])
        for same in zip(*by_form.values(), strict=True)
    ]
