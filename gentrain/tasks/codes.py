"""A file of codes, as NumPy saves it, for tasks that decode what the user gives."""

from __future__ import annotations

import tokenize

import numpy as np

from gentrain.errors import UserError
from gentrain.runtime.files import expanded


def read_codes(key: str, file: str) -> np.ndarray:
    """Floats (n, D), n at least 1, from a .npy file, read as data and never unpickled; `key` is the setting.

    Raises UserError for a file that is not there, is none, or holds something else.
    """
    path = expanded(file)
    if not path.is_file():
        raise UserError(f"{key}={file} is no file; save codes with numpy.save(file, codes)")
    try:
        # As a memory map: a header that promises more than there is allocates nothing.
        codes = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, EOFError, TypeError, tokenize.TokenError, MemoryError) as error:
        reason = "it holds Python objects" if "Python object" in str(error) else str(error).rstrip(".")
        raise UserError(f"{key}={file} is no array of floats in NumPy's .npy format: {reason}") from error
    if codes.dtype.kind != "f" or codes.ndim != 2 or len(codes) == 0:
        raise UserError(
            f"{key}={file} must hold floats with shape (n, D), one code a row, but holds {codes.dtype} "
            f"with shape {codes.shape}"
        )
    return np.array(codes, dtype=np.float64)
