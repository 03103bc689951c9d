"""What torch's kernels must compute, worked out in float64 at a few places of their output.

Each formula takes a call's own arguments and gives `Places`: where in the output it looks, and what stands there by
the definition. A large call costs no more than a small one. Sources: attention 1706.03762, section 3.2.1; layer
normalisation 1607.06450; group normalisation 1803.08494; GELU 1606.08415; convolution as cross-correlation, as
torch's documentation has it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

ROWS, FEATURES, POSITIONS, CHANNELS = 8, 64, 6, 16
"""How many rows, output features, positions and output channels of a call are looked at."""


@dataclass(frozen=True, eq=False)
class Places:
    """`expected` (float64, CPU) is what `take(output)` must be; `scale` is the size of a value that counts.

    `amplified` is how much rounding grows on the way: a normalisation subtracts a mean that may be larger than what
    is left.
    """

    expected: torch.Tensor
    take: Callable[[torch.Tensor], torch.Tensor]
    scale: float
    amplified: float = 1.0

    def error(self, output: torch.Tensor) -> float:
        """The largest difference at these places, in units of `scale`; inf where the shapes do not fit."""
        try:
            found = self.take(output).detach().double().cpu()
        except (IndexError, RuntimeError):
            return float("inf")
        if found.shape != self.expected.shape:
            return float("inf")
        gap = float((found - self.expected).abs().max()) if found.numel() else 0.0
        return gap / self.scale if gap == gap else float("inf")


def some(count: int, most: int) -> list[int]:
    """At most `most` of `count` places: the first, the last, and others evenly between them."""
    if count <= most:
        return list(range(count))
    return sorted({round(place * (count - 1) / (most - 1)) for place in range(most)})


def linear(input: Any, weight: Any, bias: Any = None) -> Places | None:
    """x W^T + b, at a few rows and features."""
    if weight.ndim != 2 or not input.numel() or input.shape[-1] != weight.shape[-1]:
        return None
    flat = input.reshape(-1, input.shape[-1])
    rows, features = some(len(flat), ROWS), some(len(weight), FEATURES)
    data, matrix = _wide(flat[rows]), _wide(weight[features])
    expected = data @ matrix.T + (0 if bias is None else _wide(bias[features]))
    spread = (data.abs() @ matrix.abs().T).max() / data.shape[-1] ** 0.5
    return Places(
        expected,
        lambda output: output.reshape(-1, output.shape[-1])[rows][:, features],
        _scale(expected, float(spread)),
    )


def convolution(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Places | None:
    """A convolution of any number of axes, at a few positions (corners and between) and output channels."""
    import torch

    axes = weight.ndim - 2
    if isinstance(padding, str) or input.ndim != weight.ndim or not input.numel():
        return None
    step, around, gap = (_each(value, axes) for value in (stride, padding, dilation))
    kernel, size = weight.shape[2:], input.shape[2:]
    out = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(size, around, gap, kernel, step, strict=True)
    ]
    if min(out) < 1:
        return None
    channels = some(len(weight), CHANNELS)
    flat = some(input.shape[0] * prod(out), POSITIONS)
    per_group = len(weight) // groups
    expected = torch.empty(len(flat), len(channels), dtype=torch.float64)
    spread = torch.empty_like(expected)
    filters = {channel: _wide(weight[channel]) for channel in channels}
    places = [tuple(_unravel(number, (input.shape[0], *out))) for number in flat]
    for row, (batch, *at) in enumerate(places):
        patch = _patch(input[batch], at, step, around, gap, kernel)
        for column, channel in enumerate(channels):
            first = channel // per_group * weight.shape[1]
            product = patch[first : first + weight.shape[1]] * filters[channel]
            offset = 0.0 if bias is None else float(bias[channel])
            expected[row, column] = product.sum() + offset
            spread[row, column] = product.abs().sum() / max(1, product.numel()) ** 0.5

    def take(output: torch.Tensor) -> torch.Tensor:
        if list(output.shape[2:]) != out:
            raise IndexError
        return torch.stack([output.movedim(1, -1)[place][channels] for place in places])

    return Places(expected, take, _scale(expected, float(spread.max())))


def layer_norm(
    input: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Places | None:
    """(x - mean) / sqrt(variance + eps) w + b, at a few rows."""
    if not input.numel():
        return None
    data, take = _rows(input, prod(normalized_shape))
    expected = _affine(_normalised(data, eps), weight, bias)
    return Places(expected, take, _scale(expected), _amplified(data, eps))


def rms_norm(
    input: Any, normalized_shape: Any, weight: Any = None, eps: float | None = None
) -> Places | None:
    """x / sqrt(mean(x^2) + eps) w, at a few rows (1910.07467)."""
    import torch

    if not input.numel():
        return None
    data, take = _rows(input, prod(normalized_shape))
    small = torch.finfo(input.dtype).eps if eps is None else eps
    expected = _affine(data / (data.square().mean(-1, keepdim=True) + small).sqrt(), weight)
    return Places(expected, take, _scale(expected))


def group_norm(
    input: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Places | None:
    """Layer normalisation over the channels of a group and all positions; the first and the last group."""
    import torch

    batch, channels = input.shape[:2]
    if not input.numel():
        return None
    width = channels // num_groups
    chosen = sorted({(0, 0), (batch - 1, num_groups - 1)})
    expected, amplified = [], 1.0
    for row, group in chosen:
        data = _wide(input[row, group * width : (group + 1) * width]).reshape(1, -1)
        amplified = max(amplified, _amplified(data, eps))
        made = _normalised(data, eps).reshape(width, -1)
        if weight is not None:
            made = made * _wide(weight[group * width : (group + 1) * width])[:, None]
        if bias is not None:
            made = made + _wide(bias[group * width : (group + 1) * width])[:, None]
        expected.append(made)

    def take(output: torch.Tensor) -> torch.Tensor:
        return torch.stack(
            [output[row, group * width : (group + 1) * width].reshape(width, -1) for row, group in chosen]
        )

    found = torch.stack(expected)
    return Places(found, take, _scale(found), amplified)


def gelu(input: Any, approximate: str = "none") -> Places | None:
    """x Phi(x), or its tanh form, at a few elements."""
    import torch

    def exact(data: torch.Tensor) -> torch.Tensor:
        return data * (1 + torch.erf(data / 2**0.5)) / 2

    def tanh(data: torch.Tensor) -> torch.Tensor:
        return data * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (data + 0.044715 * data**3))) / 2

    return _elementwise(input, exact if approximate == "none" else tanh)


def silu(input: Any, inplace: bool = False) -> Places | None:
    """x / (1 + exp(-x)), at a few elements."""
    return _elementwise(input, lambda data: data / (1 + (-data).exp()))


def attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Places | None:
    """softmax(q k^T scale + mask) v, at a few queries of the first and the last head; scale is 1/sqrt(d) by default.

    Queries that may see nothing are left out: what stands there is not defined.
    """
    import torch

    if dropout_p or query.ndim != 4 or not query.numel() or not key.numel():
        return None
    batches, heads, queries = query.shape[:3]
    keys = key.shape[2]
    shared = heads // key.shape[1] if enable_gqa else 1
    mask = None if attn_mask is None else attn_mask.expand(batches, heads, queries, keys)
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    rows = some(queries, 2 * ROWS)
    expected, chosen = [], []
    for batch, head in sorted({(0, 0), (batches - 1, heads - 1)}):
        scores = _wide(query[batch, head, rows]) @ _wide(key[batch, head // shared]).T * factor
        if is_causal:
            later = torch.arange(keys)[None, :] > torch.tensor(rows)[:, None]
            scores = scores.masked_fill(later, float("-inf"))
        if mask is not None:
            part = mask[batch, head, rows]
            if part.dtype == torch.bool:
                scores = scores.masked_fill(~part.cpu(), float("-inf"))
            else:
                scores = scores + _wide(part)
        seen = scores.max(-1).values > -1e4  # a row of nothing but masked keys is not defined
        made = scores.softmax(-1) @ _wide(value[batch, head // shared])
        for place, row in enumerate(rows):
            if bool(seen[place]):
                expected.append(made[place])
                chosen.append((batch, head, row))
    if not expected:
        return None

    def take(output: torch.Tensor) -> torch.Tensor:
        return torch.stack([output[place] for place in chosen])

    found = torch.stack(expected)
    return Places(found, take, _scale(found, float(_wide(value[0, 0]).abs().max()) / keys**0.5))


FORMS: Mapping[str, Callable[..., Places | None]] = {
    "scaled_dot_product_attention": attention,
    "linear": linear,
    "conv1d": convolution,
    "conv2d": convolution,
    "conv3d": convolution,
    "layer_norm": layer_norm,
    "rms_norm": rms_norm,
    "group_norm": group_norm,
    "gelu": gelu,
    "silu": silu,
}
"""The functions of torch.nn.functional that are known here, by name."""


def _elementwise(input: Any, formula: Callable[[Any], Any]) -> Places | None:
    if not input.numel():
        return None
    chosen = some(input.numel(), FEATURES)
    expected = formula(_wide(input.reshape(-1)[chosen]))
    return Places(expected, lambda output: output.reshape(-1)[chosen], _scale(expected))


def _rows(input: Any, width: int) -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
    """A few rows of `width` values, and what takes the same out of an output of this shape."""
    rows = some(input.numel() // width, ROWS)
    return _wide(input.reshape(-1, width)[rows]), lambda output: output.reshape(-1, width)[rows]


def _affine(rows: torch.Tensor, weight: Any, bias: Any = None) -> torch.Tensor:
    """A weight and a bias for each value of a row, where they are given."""
    if weight is not None:
        rows = rows * _wide(weight).flatten()
    return rows if bias is None else rows + _wide(bias).flatten()


def _wide(tensor: Any) -> torch.Tensor:
    wide: torch.Tensor = tensor.detach().cpu().double()
    return wide


def _scale(expected: torch.Tensor, spread: float = 0.0) -> float:
    return max(float(expected.abs().max()), spread, 1e-30)


def _normalised(data: torch.Tensor, eps: float) -> torch.Tensor:
    centred = data - data.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()


def _amplified(data: torch.Tensor, eps: float) -> float:
    spread = (data.var(-1, unbiased=False) + eps).sqrt()
    return max(1.0, float((data.abs().max(-1).values / spread).max()))


def _each(value: Any, axes: int) -> tuple[int, ...]:
    return (int(value),) * axes if isinstance(value, int) else tuple(value) * (axes // len(value))


def _unravel(number: int, shape: tuple[int, ...]) -> list[int]:
    found = []
    for size in reversed(shape):
        number, place = divmod(number, size)
        found.append(place)
    return found[::-1]


def _patch(data: Any, at: list[int], step: Any, around: Any, gap: Any, kernel: Any) -> torch.Tensor:
    """What the kernel covers at one output position: (channel, *kernel), zeros beyond the edge."""
    import torch

    found, known = data, torch.ones((1,) * data.ndim, dtype=torch.bool)
    axes = list(enumerate(zip(at, step, around, gap, kernel, strict=True)))
    for axis, (place, s, p, d, k) in reversed(axes):  # the widest axis first: what is copied stays small
        index = torch.arange(k) * d + place * s - p
        inside = (index >= 0) & (index < data.shape[axis + 1])
        kept = index.clamp(0, data.shape[axis + 1] - 1)
        found = found.index_select(axis + 1, kept.to(found.device))
        shape = [1] * (len(at) + 1)
        shape[axis + 1] = k
        known = known & inside.view(shape)
    return _wide(found) * known
