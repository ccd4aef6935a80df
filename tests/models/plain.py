"""BSRNN and MBS-Net once more, written plainly from their description: one band, one frame at a time.

The oracle of the import tests. Weights are a flat dict under the key names of the public code.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

WIDTHS = [2] + [3] * 10 + [8] * 12 + [16] * 7 + [17]
Weights = dict[str, Tensor]


def group_norm(x: Tensor, w: Weights, name: str) -> Tensor:
    """GroupNorm(1, channels) of `(batch, channel, ...)`."""
    return F.group_norm(x, 1, w[f"{name}.weight"], w[f"{name}.bias"])


def linear(x: Tensor, w: Weights, name: str) -> Tensor:
    return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))


def band_split(x: Tensor, w: Weights) -> Tensor:
    """`(batch, 257, time)` complex -> `(batch, N, time, band)`."""
    bands, low = [], 0
    for k, width in enumerate(WIDTHS, start=1):
        part = x[:, low : low + width]
        low += width
        interleaved = torch.stack([part.real, part.imag], dim=2).flatten(1, 2)
        normed = group_norm(interleaved, w, f"band_split.norm{k}").transpose(1, 2)
        bands.append(linear(normed, w, f"band_split.fc{k}").transpose(1, 2))
    return torch.stack(bands, dim=3)


def mask_decoder(skip: Tensor, w: Weights) -> Tensor:
    """`(batch, N, time, band) -> (batch, 257, time, 3 taps, re/im)`."""
    bands = []
    for k, width in enumerate(WIDTHS, start=1):
        y = group_norm(skip[..., k - 1], w, f"mask_decoder.norm{k}").transpose(1, 2)
        y = torch.tanh(linear(y, w, f"mask_decoder.fc1{k}"))
        values, gates = linear(y, w, f"mask_decoder.fc2{k}").split(6 * width, dim=-1)
        y = values * torch.sigmoid(gates)
        bands.append(y.reshape(*y.shape[:2], width, 3, 2))
    return torch.cat(bands, dim=2).transpose(1, 2)


def apply_filter(mask: Tensor, x: Tensor) -> Tensor:
    m = torch.complex(mask[..., 0], mask[..., 1])
    frames = []
    for t in range(x.shape[2]):
        out = m[:, :, t, 1] * x[:, :, t]
        if t > 0:
            out = out + m[:, :, t, 0] * x[:, :, t - 1]
        if t + 1 < x.shape[2]:
            out = out + m[:, :, t, 2] * x[:, :, t + 1]
        frames.append(out)
    return torch.stack(frames, dim=2)


def lstm_one_way(x: Tensor, w: Weights, name: str, suffix: str) -> Tensor:
    """`(row, step, in) -> (row, step, hidden)`, gates in torch's order."""
    recurrent = w[f"{name}.weight_hh_l0{suffix}"]
    h = c = x.new_zeros(x.shape[0], recurrent.shape[1])
    steps = []
    for t in range(x.shape[1]):
        gates = F.linear(x[:, t], w[f"{name}.weight_ih_l0{suffix}"], w[f"{name}.bias_ih_l0{suffix}"])
        gates = gates + F.linear(h, recurrent, w[f"{name}.bias_hh_l0{suffix}"])
        i, f, g, o = gates.chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        steps.append(h)
    return torch.stack(steps, dim=1)


def lstm(x: Tensor, w: Weights, name: str) -> Tensor:
    y = lstm_one_way(x, w, name, "")
    if f"{name}.weight_ih_l0_reverse" not in w:
        return y
    return torch.cat([y, lstm_one_way(x.flip(1), w, name, "_reverse").flip(1)], dim=2)


def bsrnn(w: Weights, x: Tensor) -> Tensor:
    skip = band_split(x, w)
    batch, n, time, bands = skip.shape
    i = 1
    while f"norm_t{i}.weight" in w:
        rows = group_norm(skip, w, f"norm_t{i}").permute(0, 3, 2, 1).reshape(batch * bands, time, n)
        rows = linear(lstm(rows, w, f"lstm_t{i}"), w, f"fc_t{i}")
        skip = skip + rows.reshape(batch, bands, time, n).permute(0, 3, 2, 1)
        i += 1
    i = 1
    while f"norm_k{i}.weight" in w:
        rows = group_norm(skip, w, f"norm_k{i}").permute(0, 2, 3, 1).reshape(batch * time, bands, n)
        rows = linear(lstm(rows, w, f"lstm_k{i}"), w, f"fc_k{i}")
        skip = skip + rows.reshape(batch, time, bands, n).permute(0, 3, 1, 2)
        i += 1
    return apply_filter(mask_decoder(skip, w), x)


def mamba_block(x: Tensor, w: Weights, name: str) -> Tensor:
    """`(row, time, N)`, with the shadowed skip and the clamps of the trained code."""
    n = x.shape[-1]
    normed = F.layer_norm(x, (n,), w[f"{name}.norm.weight"], w[f"{name}.norm.bias"])
    both = linear(normed, w, f"{name}.in_proj")
    inner = both.shape[-1] // 2
    main, gate = both[..., :inner], both[..., inner:]
    taps = w[f"{name}.ssm.conv1d.weight"][:, 0]
    k = taps.shape[1]
    padded = torch.cat([main.new_zeros(main.shape[0], k - 1, inner), main], dim=1)
    conv = sum(padded[:, j : j + main.shape[1]] * taps[:, j] for j in range(k)) + w[f"{name}.ssm.conv1d.bias"]
    u = conv * torch.sigmoid(conv)
    dt = F.softplus(linear(linear(u, w, f"{name}.ssm.x_proj_dt"), w, f"{name}.ssm.dt_proj"))
    b, c = linear(u, w, f"{name}.ssm.B_proj"), linear(u, w, f"{name}.ssm.C_proj")
    a = -torch.exp(w[f"{name}.ssm.A_log"])
    h = u.new_zeros(u.shape[0], inner, a.shape[1])
    ys = []
    for t in range(u.shape[1]):
        decay = (dt[:, t, :, None] * a).clamp(-10, 0).exp().clamp(max=0.999)
        gain = (dt[:, t, :, None].clamp(0, 1) * b[:, t, None]).clamp(-10, 10)
        h = (decay * h + gain * u[:, t, :, None]).clamp(-100, 100)
        ys.append(((h * c[:, t, None]).sum(-1) + inner * u[:, t]).clamp(-50, 50))
    y = torch.stack(ys, dim=1) * gate * torch.sigmoid(gate)
    return x + linear(y, w, f"{name}.out_proj")


def mbsnet(w: Weights, x: Tensor) -> Tensor:
    skip = band_split(x, w)
    batch, n, time, bands = skip.shape
    rows = skip.permute(0, 3, 2, 1).reshape(batch * bands, time, n)
    i = 0
    while f"encoder.mamba_layers.{i}.norm.weight" in w:
        rows = mamba_block(rows, w, f"encoder.mamba_layers.{i}")
        i += 1
    mlp = linear(rows, w, "encoder.cross_band_net.0")
    mlp = F.layer_norm(mlp, (n,), w["encoder.cross_band_net.1.weight"], w["encoder.cross_band_net.1.bias"])
    mlp = mlp * 0.5 * (1 + torch.erf(mlp / math.sqrt(2)))
    rows = F.layer_norm(
        rows + mlp, (n,), w["encoder.cross_band_norm.weight"], w["encoder.cross_band_norm.bias"]
    )
    return apply_filter(mask_decoder(rows.reshape(batch, bands, time, n).permute(0, 3, 2, 1), w), x)


def _ends(n: int, hidden: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for k, width in enumerate(WIDTHS, start=1):
        shapes |= {f"band_split.norm{k}.{kind}": (2 * width,) for kind in ("weight", "bias")}
        shapes |= {f"band_split.fc{k}.weight": (n, 2 * width), f"band_split.fc{k}.bias": (n,)}
        shapes |= {f"mask_decoder.norm{k}.{kind}": (n,) for kind in ("weight", "bias")}
        shapes |= {f"mask_decoder.fc1{k}.weight": (hidden, n), f"mask_decoder.fc1{k}.bias": (hidden,)}
        shapes |= {
            f"mask_decoder.fc2{k}.weight": (12 * width, hidden),
            f"mask_decoder.fc2{k}.bias": (12 * width,),
        }
    return shapes


def bsrnn_shapes(n: int, layers: int, expansion: int = 4, both: bool = False) -> dict[str, tuple[int, ...]]:
    """Key of the public code -> shape."""
    shapes = _ends(n, expansion * n)
    for letter, ways in (("t", ["", "_reverse"] if both else [""]), ("k", ["", "_reverse"])):
        for i in range(1, layers + 1):
            shapes |= {f"norm_{letter}{i}.{kind}": (n,) for kind in ("weight", "bias")}
            for way in ways:
                shapes[f"lstm_{letter}{i}.weight_ih_l0{way}"] = (8 * n, n)
                shapes[f"lstm_{letter}{i}.weight_hh_l0{way}"] = (8 * n, 2 * n)
                shapes |= {f"lstm_{letter}{i}.bias_{kind}_l0{way}": (8 * n,) for kind in ("ih", "hh")}
            shapes[f"fc_{letter}{i}.weight"] = (n, 2 * n * len(ways))
            shapes[f"fc_{letter}{i}.bias"] = (n,)
    return shapes


def mbsnet_shapes(
    n: int, layers: int, states: int = 12, expand: int = 1, expansion: int = 2
) -> dict[str, tuple[int, ...]]:
    """Key of the public code -> shape."""
    shapes, inner = _ends(n, expansion * n), expand * n
    rank = -(-inner // 16)
    for i in range(layers):
        layer = f"encoder.mamba_layers.{i}"
        shapes |= {f"{layer}.norm.weight": (n,), f"{layer}.norm.bias": (n,)}
        shapes |= {f"{layer}.in_proj.weight": (2 * inner, n), f"{layer}.out_proj.weight": (n, inner)}
        shapes |= {f"{layer}.ssm.A_log": (inner, states), f"{layer}.ssm.D": (inner,)}
        shapes |= {
            f"{layer}.ssm.x_proj_dt.weight": (rank, inner),
            f"{layer}.ssm.dt_proj.weight": (inner, rank),
        }
        shapes |= {f"{layer}.ssm.dt_proj.bias": (inner,), f"{layer}.ssm.conv1d.bias": (inner,)}
        shapes |= {f"{layer}.ssm.{part}_proj.weight": (states, inner) for part in "BC"}
        shapes[f"{layer}.ssm.conv1d.weight"] = (inner, 1, 4)
    shapes |= {"encoder.cross_band_net.0.weight": (n, n), "encoder.cross_band_net.0.bias": (n,)}
    for norm in ("encoder.cross_band_net.1", "encoder.cross_band_norm"):
        shapes |= {f"{norm}.weight": (n,), f"{norm}.bias": (n,)}
    return shapes


def random_weights(shapes: dict[str, tuple[int, ...]], seed: int, dtype: torch.dtype) -> Weights:
    """Weights in which no term is zero, one or equal to another by accident, and the clamps are reached."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for key, shape in shapes.items():
        value = torch.randn(shape, generator=generator, dtype=torch.float64) / math.sqrt(shape[-1])
        if "norm" in key and key.endswith("weight"):
            value = 1 + 0.3 * value
        if key.endswith("A_log"):
            value = (
                torch.log(torch.arange(1.0, shape[1] + 1, dtype=torch.float64)).expand(shape) + 0.3 * value
            )
        if key.endswith("in_proj.weight"):
            value = 4 * value
        weights[key] = value.to(dtype)
    return weights
