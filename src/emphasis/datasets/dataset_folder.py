"""Folders that `save_to_disk` of Hugging Face's datasets has written, read without that library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from emphasis.datasets.errors import DamagedFileError
from emphasis.datasets.table_report import TableError
from emphasis.json_files import JSONFileError, read_json

_STATE, _INFO, _PARTS = "state.json", "dataset_info.json", "dataset_dict.json"


def is_dataset_folder(path: Path) -> bool:
    """Return whether a folder holds a saved dataset, or several parts of one, rather than images."""
    return (path / _PARTS).is_file() or ((path / _STATE).is_file() and (path / _INFO).is_file())


def read_dataset_folder(folder: Path) -> Any:
    """Return a saved dataset as a pyarrow table, with the names of classes instead of their numbers.

    Raises:
        TableError: The folder holds several parts.
        DamagedFileError: A file is missing or damaged.
    """
    import pyarrow as pa

    if (folder / _PARTS).is_file():
        parts = sorted(path.parent.name for path in folder.glob(f"*/{_STATE}"))
        listed = ", ".join(str(folder / part) for part in parts)
        raise TableError([f"{folder} holds several parts of a dataset; name one of them: {listed}"])
    try:
        names = [Path(file["filename"]).name for file in read_json(folder / _STATE)["_data_files"]]
        tables = []
        for name in names:
            with pa.memory_map(str(folder / name)) as source, pa.ipc.open_stream(source) as stream:
                tables.append(stream.read_all())
        table = pa.concat_tables(tables)
        features = read_json(folder / _INFO)["features"]
        classes = {name: feature["names"] for name, feature in features.items() if "names" in feature}
        for name, texts in classes.items():
            table = table.set_column(table.column_names.index(name), name, _class_names(table[name], texts))
    except (OSError, JSONFileError, KeyError, TypeError, ValueError, AttributeError, pa.ArrowException) as error:
        raise DamagedFileError(f"dataset {str(folder)!r} cannot be read ({error})") from error
    return table


def _class_names(codes: Any, names: list[str]) -> Any:
    """Return the names of classes; -1 means that there is no label."""
    import pyarrow as pa
    import pyarrow.compute as pc

    known = pc.if_else(pc.greater_equal(codes, 0), codes, pa.scalar(None, codes.type))
    return pc.take(pa.array(names, pa.string()), known)
