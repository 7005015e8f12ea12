"""Models in several files."""

from __future__ import annotations

from pathlib import Path

from gguf import GGUFReader, GGUFWriter


def split(source: Path, folder: Path, n_first: int | None = None) -> list[Path]:
    """The same model in two files, as llama-gguf-split leaves it: metadata in the first only.

    Args:
        n_first: tensors in the first file; half of them if absent.
    """
    reader = GGUFReader(source)
    half = len(reader.tensors) // 2 if n_first is None else n_first
    paths = []
    for i, tensors in enumerate((reader.tensors[:half], reader.tensors[half:])):
        paths.append(folder / f"m-0000{i + 1}-of-00002.gguf")
        writer = GGUFWriter(paths[i], "llama")
        for name, field in reader.fields.items() if i == 0 else ():
            if not name.startswith(("GGUF.", "general.architecture")):
                inner = field.types[-1] if len(field.types) > 1 else None
                writer.add_key_value(name, field.contents(), field.types[0], inner)
        writer.add_uint16("split.no", i)
        writer.add_uint16("split.count", 2)
        writer.add_int32("split.tensors.count", len(reader.tensors))
        for tensor in tensors:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return paths
