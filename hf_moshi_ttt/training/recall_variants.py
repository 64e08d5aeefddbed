"""Files of variants as material for recall tasks: the first codebooks of both forms, their ids grouped alike."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from ..codec.pretrained_codec import codec_sha256, load_codec
from ..data.variants import ORIGINAL, Form, load_variants
from ..memory.variant_tasks import RenderedRecording, Rendering
from .recall_speech import first_codebooks, grouped_tables, in_groups, require_ids


def load_renderings(
    path: str, num_ids: int, codec: str | None = None, num_codebooks: int = 1
) -> dict[str, list[RenderedRecording]]:
    """By form the recordings as they are and in that form, `[Q, T]` each in `num_ids` ids.

    Args:
        path: file that `make-variants` wrote.
        num_ids, codec, num_codebooks: as of `load_recordings`; the same give the same groups.

    Raises:
        ValueError: no such file, more ids or codebooks than it has, or another codec than the one that made it.
    """
    codes, origin = load_variants(path)
    require_ids(path, num_ids, origin.codebook_size)
    groups_QV = None
    if num_ids < origin.codebook_size:
        loaded = load_codec(codec or origin.codec)
        if codec_sha256(loaded) != origin.codec_sha256:
            raise ValueError(f"{path} was made with a codec of other weights than {codec or origin.codec!r} has now.")
        groups_QV = grouped_tables(loaded, num_ids, num_codebooks)

    def grouped(codes_QT: Tensor) -> Tensor:
        first_QT = first_codebooks(codes_QT, num_codebooks).long()
        return first_QT if groups_QV is None else in_groups(first_QT, groups_QV)

    first = [grouped(codes_QT) for codes_QT in codes[ORIGINAL]]
    return {
        name: [
            RenderedRecording(first_QT, [Rendering(grouped(again_QT), Form.parse(name).frame_of)])
            for first_QT, again_QT in zip(first, codes[name], strict=True)
        ]
        for name in origin.forms
    }


def with_all_forms(by_form: Mapping[str, Sequence[RenderedRecording]]) -> list[RenderedRecording]:
    """Every recording with all of its forms, of what `load_renderings` returned."""
    return [
        RenderedRecording(same[0].codes_QT, [form for each in same for form in each.forms])
        for same in zip(*by_form.values(), strict=True)
    ]
