"""Datasets of rows in memory that are named by their content, so that `datasets` does not pickle them to name them.

`Dataset.from_list` hashes a table by dill, which fails where packages lie in a folder that is not called site-packages,
as `pip install --target` leaves them (docs/compatibility.md).
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow
from datasets import Dataset, DatasetInfo, Features


def dataset_of(rows: Iterable[Mapping[str, Any]], features: Features) -> Dataset:
    """A dataset as `Dataset.from_list(rows, features=features)` makes it; equal rows have equal fingerprints.

    Args:
        rows: every feature's value in each, None where it has none; lists, no arrays.

    Raises:
        KeyError: a row without one of the features.
        pyarrow.ArrowInvalid: a value that its feature cannot hold.
    """
    encoded = [features.encode_example({name: row[name] for name in features}) for row in rows]
    table = pyarrow.Table.from_pylist(encoded, schema=features.arrow_schema)
    content = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(content, table.schema) as writer:
        writer.write_table(table)
    name = hashlib.sha256(content.getvalue()).hexdigest()
    return Dataset(table, DatasetInfo(features=features), fingerprint=name[:16])
