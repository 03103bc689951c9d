"""The digest of a stored tensor, streamed from its bytes: what `tensors.digest` gives for it, without torch."""

from __future__ import annotations

import math

from pytest_genmodel.checkpoints.spans import SpanReader, Spans, size_of

_BLOCK = 512 * 1024


def stored_digest(dtype: str, shape: tuple[int, ...], spans: Spans) -> str:
    """The sha256 (64 hex digits) of dtype (as torch spells it), shape and row-major bytes.

    Raises:
        DamagedFileError: a file ends inside a span.
    """
    import hashlib  # loads OpenSSL, which nothing else needs

    state = hashlib.sha256(f"{dtype} {shape}\n".encode())
    if math.prod(shape):
        view, size = memoryview(bytearray(_BLOCK)), size_of(spans)
        with SpanReader() as reader:
            for begin in range(0, size, _BLOCK):
                part = view[: min(_BLOCK, size - begin)]
                reader.read(spans, begin, part)
                state.update(part)
    return state.hexdigest()
