"""Names, shapes and types of the tensors in a weight file, from its header; no value is read, no code run.

safetensors: eight bytes with the length of a JSON header, the header, the tensors' bytes
(https://github.com/huggingface/safetensors#format). A file of torch.save: a zip archive with a pickle in it,
which is taken apart by a reader that knows tensors and nothing else.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from types import MappingProxyType
from typing import Any, BinaryIO

LARGEST_HEADER_BYTES = 100_000_000
"""The safetensors library refuses a longer one."""
_BITS: Mapping[str, int] = MappingProxyType(
    {
        **{"BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F4": 4},
        **{"F6_E2M3": 6, "F6_E3M2": 6, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8},
        **{"I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32},
        **{"I64": 64, "U64": 64, "F64": 64, "C64": 64},
    }
)
_STORAGES: Mapping[str, str] = MappingProxyType(
    {
        **{"FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16", "DoubleStorage": "F64"},
        **{"LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8"},
        **{"ByteStorage": "U8", "BoolStorage": "BOOL"},
    }
)
_MAY_BE_LOADED = ("torch", "collections", "builtins", "_codecs", "numpy")
_BEFORE_ZIP = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
"""How torch.save began before torch 1.6."""


@dataclass(frozen=True)
class Tensor:
    """dtype: as safetensors calls it, `BF16`; empty when not known."""

    dtype: str
    shape: tuple[int, ...]


class DamagedFile(ValueError):
    """A weight file is not what its name says, or ends before its end."""


class NotTensors(DamagedFile):
    """A pickle holds something else as well; torch does not load it with weights_only either."""

    def __init__(self, named: str) -> None:
        super().__init__(f"it holds {named}, and a weight file holds tensors only")
        self.named = named


def read_tensors(path: str) -> Mapping[str, Tensor] | None:
    """The tensors of a .safetensors file, or of one that torch.save wrote. None: a kind of torch file that is
    not looked into. Raises DamagedFile, OSError.
    """
    return _of_safetensors(path) if path.endswith(".safetensors") else _of_torch(path)


def _of_safetensors(path: str) -> dict[str, Tensor]:
    whole = os.path.getsize(path)
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if whole < 8 or length > min(whole - 8, LARGEST_HEADER_BYTES):
            raise DamagedFile(f"{whole:,} bytes, which do not begin with a safetensors header")
        header = file.read(length)
    try:
        entries = json.loads(header)
        entries.pop("__metadata__", None)
        tensors = {str(name): Tensor(one["dtype"], tuple(one["shape"])) for name, one in entries.items()}
        ends = [_checked_end(name, entries[name], tensor) for name, tensor in tensors.items()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedFile("its header is not that of a safetensors file") from error
    needed = 8 + length + max(ends, default=0)
    if needed != whole:
        raise DamagedFile(f"{whole:,} bytes, and its header tells of {needed:,}")
    return tensors


def _checked_end(name: str, entry: Mapping[str, Any], tensor: Tensor) -> int:
    """Where a tensor's bytes end. ValueError: they are not as many as its shape has."""
    begin, end = entry["data_offsets"]
    size = math.prod(tensor.shape) * _BITS.get(tensor.dtype, 0)
    if min(tensor.shape, default=0) < 0 or (tensor.dtype in _BITS and 8 * (end - begin) != size):
        raise ValueError(name)
    return int(end)


def _of_torch(path: str) -> dict[str, Tensor] | None:
    with open(path, "rb") as file:
        if file.read(len(_BEFORE_ZIP)) == _BEFORE_ZIP:
            return _of_old_torch(file)
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(names) != 1:
                raise DamagedFile("an archive that torch.save did not write")
            if archive.getinfo(names[0]).file_size > LARGEST_HEADER_BYTES:
                return None
            pickled = archive.read(names[0])
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        whole = os.path.getsize(path)
        raise DamagedFile(f"{whole:,} bytes, which are not a whole archive of torch.save") from error
    return _unpickled(_TensorsOnly(BytesIO(pickled)))


def _of_old_torch(file: BinaryIO) -> dict[str, Tensor] | None:
    """Five pickles (magic, protocol, system, object, keys), and each storage with its length before it."""
    file.seek(0)
    tensors: dict[str, Tensor] | None = None
    storages: dict[str, int] = {}
    for number in range(5):
        reader = _TensorsOnly(file)
        if number == 3:
            tensors, storages = _unpickled(reader), reader.storages
            if tensors is None:
                return None
        else:
            try:
                reader.load()
            except Exception as error:
                raise DamagedFile("it ends before its end") from error
    needed = file.tell() + sum(8 + size for size in storages.values())
    if (whole := os.fstat(file.fileno()).st_size) < needed:
        raise DamagedFile(f"{whole:,} bytes, and its beginning tells of {needed:,}")
    return tensors


def _unpickled(reader: _TensorsOnly) -> dict[str, Tensor] | None:
    """The named tensors of a pickle; None when it is not a plain dict of them. Raises DamagedFile."""
    try:
        found = reader.load()
        return {name: one for name, one in found.items() if isinstance(one, Tensor)} or None
    except DamagedFile:
        raise
    except (EOFError, pickle.UnpicklingError) as error:
        raise DamagedFile("it ends before its end") from error
    except Exception:  # a pickle can hold anything; what is not plain tensors is not judged
        return None


class _NotPlain(Exception):
    """A pickle holds something of torch's that is no plain tensor."""


class _Named(dict[str, Any]):
    """Stands for an OrderedDict, whose attributes are of no interest."""

    def __setstate__(self, state: object) -> None:
        pass


class _TensorsOnly(pickle.Unpickler):
    """Tensors without their values. Whatever else a pickle names is never called: torch's own things are
    _NotPlain, and those of others a DamagedFile, since torch does not load them either.

    storages: bytes of each, by its key.
    """

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.storages: dict[str, int] = {}

    def find_class(self, module: str, name: str) -> Any:
        known: dict[tuple[str, str], Callable[..., Any]] = {
            ("collections", "OrderedDict"): _Named,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
        }
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if (module, name) not in known:
            if module.partition(".")[0] not in _MAY_BE_LOADED or module.startswith("torch.nn.modules"):
                raise NotTensors(f"{module}.{name}")
            raise _NotPlain(f"{module}.{name}")
        return known[(module, name)]

    def persistent_load(self, pid: Any) -> Any:
        _, dtype, key, _, numbers, *_ = pid
        self.storages[str(key)] = numbers * _BITS[dtype] // 8
        return dtype


def _tensor(dtype: str, _: int, size: tuple[int, ...], *__: object) -> Tensor:
    return Tensor(dtype, tuple(size))
