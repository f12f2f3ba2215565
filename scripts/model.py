#!/usr/bin/env python3
"""MiniMax-M3's text model in plain numpy: the executable twin of MODEL.md, which numbers the steps.

    scripts/model.py MODEL_DIR 1,2,3 [--out logits.npy] [--compare m3.safetensors] [--float32]

Reads a directory in the released layout (config.json and *.safetensors; with or without a vision
half; BF16, MXFP8, MXFP4, NVFP4 or int8) and runs one sequence from its first token, with no cache
and in float64.
--compare takes what `m3 logits --out` wrote, with `--trace` also hidden states, experts and blocks.
Weights are widened when a step needs them, so memory stays at one matrix and the activations.
"""
import argparse
import json
import math
import pathlib
import sys
import types

import numpy as np

# ------------------------------------------------------------------------------ checkpoint (§3)
PLAIN = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "F8_E4M3": "u1", "U8": "u1",
         "F8_E8M0": "u1", "I8": "i1", "I32": "<i4", "I64": "<i8"}


def e4m3_values():
    """The value of every byte: sign, four bits of exponent (bias 7), three of mantissa."""
    byte = np.arange(256)
    exponent, mantissa = byte >> 3 & 15, byte & 7
    size = np.where(exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * 2.0 ** (exponent - 10.0))
    size[byte & 127 == 127] = np.nan
    return np.where(byte < 128, size, -size)


def safetensors(path):
    """Name -> (numbers as stored, type): the header's length, a JSON header, the numbers."""
    try:
        file, tensors = np.memmap(path, np.uint8, "r"), {}
        begin = 8 + int(file[:8].view("<u8")[0])
        header = json.loads(bytes(file[8:begin]))
    except (OSError, ValueError) as error:
        sys.exit(f"{path} is no safetensors file: {error}")
    for name, info in header.items():
        if name != "__metadata__":
            first, last = info["data_offsets"]
            x = np.frombuffer(file[begin + first:begin + last], PLAIN[info["dtype"]])
            tensors[name] = x.reshape(info["shape"]), info["dtype"]
    return tensors


class Weights:
    """Every tensor of a directory under its released name, in the type of the computation."""
    E4M3 = e4m3_values()
    E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    E2M1 = np.concatenate([E2M1, -E2M1])

    def __init__(self, directory, number):
        self.stored = {}
        for path in pathlib.Path(directory).glob("*.safetensors"):
            self.stored.update(safetensors(path))
        self.number = number
        nested = "language_model.model.embed_tokens.weight" in self.stored
        self.prefix = "language_model." if nested else ""

    def __call__(self, name):
        name = self.prefix + name
        if name not in self.stored:
            sys.exit(f"{name} is in no safetensors file of this directory")
        x, dtype = self.stored[name]
        if dtype == "BF16":
            x = (x.astype(np.uint32) << 16).view(np.float32)
        elif dtype in ("F8_E4M3", "U8", "I8"):
            x = self.scaled(name, x, dtype)
        return x.astype(self.number)

    def scaled(self, name, x, dtype):
        """A scale for a row and some columns; the products are exact (§3.3, §3.4)."""
        if dtype == "U8":  # two columns a byte, the even one in the low nibble
            x = self.E2M1[np.stack([x & 15, x >> 4], axis=-1).reshape(len(x), -1)]
        elif dtype == "F8_E4M3":
            x = self.E4M3[x]
        found = [self.stored[name + s] for s in ("_scale", "_scale_inv") if name + s in self.stored]
        if not found:
            sys.exit(f"{name} is {dtype}, and its scales are missing")
        scale, scale_dtype = found[0]
        columns = 32
        if scale_dtype == "F8_E4M3":
            if name + "_scale_2" not in self.stored:
                sys.exit(f"{name} is NVFP4, and {name}_scale_2 is missing")
            factor, _ = self.stored[name + "_scale_2"]
            scale, columns = self.E4M3[scale] * factor.astype(np.float64), 16
        elif scale_dtype != "F16":
            if (scale == 255).any():
                sys.exit(f"a scale of {name} is NaN (255)")
            scale = np.ldexp(1.0, scale.astype(np.int32) - 127)
        return x * np.repeat(scale.astype(np.float64), columns, axis=1)[:, :x.shape[1]]


# --------------------------------------------------------------------------- configuration (§2)
def read_config(directory):
    c = json.loads((pathlib.Path(directory) / "config.json").read_text())
    c = c.get("text_config", c)
    if "layer_types" in c or "rope_parameters" in c:
        sys.exit("config.json is in transformers' own spelling; this script reads the released one")
    layers = c["num_hidden_layers"]
    blocks = c.get("sparse_attention_config") or {}
    sparse = blocks.get("sparse_attention_freq") or [0] * layers
    if not blocks.get("use_sparse_attention", True):
        sparse = [0] * layers
    rotary = c.get("rotary_dim") or int(c["head_dim"] * c["partial_rotary_factor"])
    return types.SimpleNamespace(
        layers=layers, heads=c["num_attention_heads"], kv_heads=c["num_key_value_heads"],
        head_dim=c["head_dim"], vocab=c["vocab_size"], eps=c.get("rms_norm_eps", 1e-6),
        theta=c.get("rope_theta", 5e6), rotary_dim=rotary, rope_scaling=c.get("rope_scaling") or {},
        positions=c.get("max_position_embeddings", 524288), alpha=c.get("swiglu_alpha", 1.702),
        limit=c.get("swiglu_limit", 7.0), beta=c.get("swiglu_beta", 1.0),
        moe=c.get("moe_layer_freq") or [1] * layers, experts_per_token=c.get("num_experts_per_tok"),
        shared_experts=c.get("n_shared_experts") or 0, router_bias=c.get("use_routing_bias", True),
        score=c.get("scoring_func", "sigmoid"), routed_scale=c.get("routed_scaling_factor", 2.0),
        sparse=sparse, index_heads=blocks.get("sparse_num_index_heads"),
        index_dim=blocks.get("sparse_index_dim"), block_tokens=blocks.get("sparse_block_size"),
        topk=blocks.get("sparse_topk_blocks"), pool=blocks.get("sparse_score_type", "max"),
        init=blocks.get("sparse_init_block", 0), local=blocks.get("sparse_local_block", 1))


# ------------------------------------------------------------------- norm and rotation (§4.2-4.4)
def gemma_norm(x, weight, eps):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * (1 + weight)


def sigmoid(x):
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


def rope_frequencies(c):
    """Frequencies [rotary_dim / 2], each step in float32; the table's factor; the positions."""
    f32, n = np.float32, c.rotary_dim // 2
    exponent = np.arange(0, 2 * n, 2, dtype=f32) / f32(c.rotary_dim)
    period = np.power(float(c.theta), exponent.astype(np.float64)).astype(f32)
    plain, yarn = 1 / period, c.rope_scaling
    kind = yarn.get("rope_type", yarn.get("type", "default"))
    if kind == "default":
        return plain, 1.0, c.positions
    if kind != "yarn":
        sys.exit(f"rope_scaling is of type {kind}; expected default or yarn")
    factor = yarn["factor"]
    original = yarn.get("original_max_position_embeddings") or c.positions

    def turns(count):  # the place in the table whose frequency turns `count` times in the original
        return c.rotary_dim * math.log(original / (2 * math.pi * count)) / (2 * math.log(c.theta))

    low, high = turns(yarn.get("beta_fast", 32)), turns(yarn.get("beta_slow", 1))
    if yarn.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0.0), min(high, c.rotary_dim - 1.0)
    width = high - low or 0.001
    kept = 1 - np.clip((np.arange(n, dtype=f32) - f32(low)) / f32(width), f32(0), f32(1))
    frequencies = 1 / (f32(factor) * period) * (1 - kept) + plain * kept
    m = lambda weight: 0.1 * weight * math.log(factor) + 1 if factor > 1 else 1.0
    scale = m(1)
    if yarn.get("mscale") and yarn.get("mscale_all_dim"):
        scale = m(yarn["mscale"]) / m(yarn["mscale_all_dim"])
    scale = yarn.get("attention_factor") or scale
    return frequencies, scale, int(original * factor)


def rotate(x, cos, sin):
    """x [tokens, heads, dim]: pair (i, i + n) of the first 2n elements; cos, sin [tokens, 1, n]."""
    n = cos.shape[-1]
    a, b, rest = x[..., :n], x[..., n:2 * n], x[..., 2 * n:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1)


# ------------------------------------------------------------------- indexer, attention (§4.5-4.6)
def select_blocks(c, q, k):
    """The blocks each token and index head attends to, [tokens, index_heads, topk], then -1.

    q [tokens, index_heads, index_dim], k [tokens, index_dim], both normalised and rotated.
    """
    tokens = len(k)
    t, count = np.arange(tokens)[:, None], -(-tokens // c.block_tokens)
    visible, b = t // c.block_tokens + 1, np.arange(count)
    out = np.full((tokens, c.index_heads, c.topk), -1, np.int32)
    for g in range(c.index_heads):
        score = np.full((tokens, count * c.block_tokens), -np.inf)
        score[:, :tokens] = np.where(np.arange(tokens) <= t, q[:, g] @ k.T, -np.inf)
        score = score.reshape(tokens, count, c.block_tokens)
        pooled = (np.max(score, axis=-1) if c.pool == "max" else
                  np.logaddexp.reduce(score / math.sqrt(c.index_dim), axis=-1))
        key = np.where(np.isnan(pooled), -1e30, pooled)
        key = np.where(b < c.init, 1e30, key)
        key = np.where(b >= visible - c.local, 1e29, key)
        key = np.where(b < visible, key, -np.inf)
        best = np.argsort(-key, axis=-1, kind="stable")[:, :c.topk]
        best = np.sort(np.where(best < visible, best, count), axis=-1)
        out[:, g, :best.shape[1]] = np.where(best < count, best, -1)
    return out


def attend(c, q, k, v, blocks):
    """Causal softmax attention, over the listed blocks if given: [tokens, heads, head_dim]."""
    tokens, out = len(q), np.empty_like(q)
    t, j = np.arange(tokens)[:, None], np.arange(tokens)
    for h in range(c.heads):
        g = h // (c.heads // c.kv_heads)
        seen = j <= t
        if blocks is not None:
            own = j // c.block_tokens
            chosen = (blocks[:, g, :, None] == np.arange(own[-1] + 1)).any(axis=1)
            seen = seen & chosen[:, own]
        score = np.where(seen, q[:, h] @ k[:, g].T / math.sqrt(c.head_dim), -np.inf)
        top = np.maximum(score.max(axis=-1, keepdims=True), np.finfo(q.dtype).min)
        weight = np.exp(score - top)
        # A token that sees nothing (possible only without local blocks) gives zeros.
        out[:, h] = weight @ v[:, g] / np.maximum(weight.sum(axis=-1, keepdims=True), 1e-30)
    return out


def attention(c, w, layer, x, cos, sin, trace):
    p = f"model.layers.{layer}.self_attn."

    def heads(name, count, dim):
        return (x @ w(p + name + "_proj.weight").T).reshape(len(x), count, dim)

    def norm_rope(name, count, dim):
        normed = gemma_norm(heads(name, count, dim), w(p + name + "_norm.weight"), c.eps)
        return rotate(normed, cos, sin)

    q, k = norm_rope("q", c.heads, c.head_dim), norm_rope("k", c.kv_heads, c.head_dim)
    v, blocks = heads("v", c.kv_heads, c.head_dim), None
    if c.sparse[layer]:
        index_k = norm_rope("index_k", 1, c.index_dim)[:, 0]
        blocks = select_blocks(c, norm_rope("index_q", c.index_heads, c.index_dim), index_k)
        trace[f"blocks.{layer}"] = blocks
    return attend(c, q, k, v, blocks).reshape(len(x), -1) @ w(p + "o_proj.weight").T


# ------------------------------------------------------------------------- feed-forward (§4.7-4.8)
def swiglu(c, gate, up):
    if c.limit > 0:
        gate, up = np.minimum(gate, c.limit), np.clip(up, -c.limit, c.limit)
    return gate * sigmoid(c.alpha * gate) * (up + c.beta)


def mlp(c, w, p, x, names=("gate_proj", "up_proj", "down_proj")):
    gate, up, down = (w(f"{p}{name}.weight").T for name in names)
    return swiglu(c, x @ gate, x @ up) @ down


def moe(c, w, layer, x, trace):
    p = f"model.layers.{layer}.block_sparse_moe."
    logits = x @ w(p + "gate.weight").T
    if c.score == "softmax":
        score = np.exp(logits - logits.max(axis=-1, keepdims=True))
        score /= score.sum(axis=-1, keepdims=True)
    else:
        score = sigmoid(logits)
    score = np.where(np.isfinite(score), score, 0)
    choice = score + w(p + "e_score_correction_bias") if c.router_bias else score
    picks = np.sort(np.argsort(-choice, axis=-1, kind="stable")[:, :c.experts_per_token], axis=-1)
    weight = np.take_along_axis(score, picks, axis=-1)
    total = weight.sum(axis=-1, keepdims=True)
    weight = weight / np.where(total > 0, total, 1)
    trace[f"experts.{layer}"], trace[f"expert_weights.{layer}"] = picks.astype(np.int32), weight
    out = np.zeros_like(x)
    for e in np.unique(picks):
        rows, place = np.nonzero(picks == e)
        expert = mlp(c, w, f"{p}experts.{e}.", x[rows], ("w1", "w3", "w2"))
        out[rows] += weight[rows, place, None] * expert
    out *= c.routed_scale
    return out + mlp(c, w, p + "shared_experts.", x) if c.shared_experts else out


# ---------------------------------------------------------------------------------- forward (§4.1)
def forward(c, w, ids):
    """Logits [tokens, vocab] and, under the names of `m3 logits --trace`, what led to them."""
    frequencies, scale, positions = rope_frequencies(c)
    if not ids or len(ids) > positions or not all(0 <= i < c.vocab for i in ids):
        sys.exit(f"expected 1 to {positions} ids from 0 to {c.vocab - 1}")
    # The product of position and frequency is a float32 in every backend (§4.4).
    angle = (np.arange(len(ids), dtype=np.float32)[:, None] * frequencies).astype(w.number)[:, None]
    cos, sin, trace = scale * np.cos(angle), scale * np.sin(angle), {}
    cos, sin = cos.astype(w.number), sin.astype(w.number)
    hidden = w("model.embed_tokens.weight")[ids]
    for layer in range(c.layers):
        p = f"model.layers.{layer}."
        x = gemma_norm(hidden, w(p + "input_layernorm.weight"), c.eps)
        hidden = hidden + attention(c, w, layer, x, cos, sin, trace)
        x = gemma_norm(hidden, w(p + "post_attention_layernorm.weight"), c.eps)
        hidden = hidden + (moe(c, w, layer, x, trace) if c.moe[layer] else mlp(c, w, p + "mlp.", x))
        trace[f"hidden.{layer}"] = hidden
    final = trace["hidden.final"] = gemma_norm(hidden, w("model.norm.weight"), c.eps)
    return final @ w("lm_head.weight").T, trace


def compare(mine, path):
    """Prints the largest difference of every tensor in the file; true if all are small enough.

    2e-4 for values up to 10: rounding to float32 alone moves the logits by 2e-5.
    """
    theirs, good = safetensors(path), True
    if "logits" not in theirs:
        sys.exit(f"{path} holds no logits; expected a file that `m3 logits --out` wrote")
    for name in sorted(theirs.keys() & mine.keys()):
        other, _ = theirs[name]
        if other.shape != mine[name].shape:
            sys.exit(f"{name} is {list(other.shape)} in {path} and {list(mine[name].shape)} here")
        difference = np.abs(other.astype(np.float64) - mine[name]).max()
        whole = np.issubdtype(other.dtype, np.integer)  # experts and blocks: equal or wrong
        scale = max(1.0, np.abs(mine[name]).max() / 10)
        passed = bool(difference <= (0 if whole else 2e-4 * scale))  # false for NaN
        print(f"{name}: largest difference {difference:.3g}{'' if passed else ', too much'}")
        good = good and passed
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="directory with config.json and *.safetensors")
    parser.add_argument("ids", help="token ids like 1,2,3, or a JSON file that lists them")
    parser.add_argument("--out", help="write the logits here, as .npy in float32")
    parser.add_argument("--compare", help="a safetensors file that m3 logits --out wrote")
    parser.add_argument("--float32", action="store_true", help="compute in float32, not float64")
    args = parser.parse_args()

    weights = Weights(args.model, np.float32 if args.float32 else np.float64)
    try:
        ids = pathlib.Path(args.ids).read_text() if args.ids.endswith(".json") else f"[{args.ids}]"
        config, ids = read_config(args.model), json.loads(ids)
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"cannot read the config or the ids: {error!r}")
    logits, trace = forward(config, weights, ids)
    last = np.argsort(-logits[-1], kind="stable")[:5]
    print("after the last token:", ", ".join(f"{i} ({logits[-1, i]:.4f})" for i in last))
    if args.out:
        np.save(args.out, logits.astype(np.float32))
    if args.compare and not compare({"logits": logits, **trace}, args.compare):
        sys.exit(1)


if __name__ == "__main__":
    main()
