#!/usr/bin/env python3
"""A full training step of a small model: `m3 train` beside PyTorch on the same cores.

    bench/train_against_torch.py [--m3 build/release/m3] [--threads N] [--steps N] [--venv DIR]

The model: hidden 256, one dense and five sparse mixture layers of eight experts, a batch of eight
documents of 512 tokens. PyTorch runs the official classes of `transformers`, in float32 and under
bfloat16 autocast, each with eager and with grouped experts, SDPA attention and AdamW; the fastest
counts. Both sides take turns; medians of the steps after the first are printed, in tokens a second.

Without torch and transformers it makes a virtual environment in --venv and installs them there.
"""
import argparse
import contextlib
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGES = ["torch", "transformers>=5.23", "safetensors", "pillow", "torchvision"]
BATCH, LENGTH, VOCAB = 8, 512, 8192


def config():
    layers = [0] + [1] * 5
    text = dict(
        architectures=["MiniMaxM3SparseForCausalLM"], hidden_size=256, num_hidden_layers=6,
        num_attention_heads=8, num_key_value_heads=2, head_dim=32, vocab_size=VOCAB,
        max_position_embeddings=4096, rms_norm_eps=1e-6, use_gemma_norm=True,
        attention_output_gate=False, use_qk_norm=True, qk_norm_type="per_head",
        hidden_act="swigluoai", swiglu_alpha=1.702, swiglu_limit=7.0, intermediate_size=256,
        dense_intermediate_size=1024, shared_intermediate_size=256, num_local_experts=8,
        num_experts_per_tok=2, n_shared_experts=1, scoring_func="sigmoid", use_routing_bias=True,
        routed_scaling_factor=2.0, moe_layer_freq=layers, rope_theta=5000000, rotary_dim=16,
        partial_rotary_factor=0.5, tie_word_embeddings=False, num_mtp_modules=0,
        torch_dtype="bfloat16",
        sparse_attention_config=dict(
            use_sparse_attention=True, sparse_attention_freq=layers, sparse_index_dim=32,
            sparse_num_index_heads=2, sparse_topk_blocks=4, sparse_block_size=64,
            sparse_score_type="max", sparse_init_block=0, sparse_local_block=1,
            sparse_disable_index_value=layers))
    base = json.loads((ROOT / "tests/data/models/train/config.json").read_text())
    base["text_config"] = text
    base["projector_hidden_size"] = base["vision_config"]["projection_dim"] = 256
    return base


def ours(m3, work, threads, precision):
    done = subprocess.run(
        [m3, "train", work / "model", "--language-model-only", "--batches", work / "batches.json",
         "--full", "--precision", precision, "--pack", str(BATCH * LENGTH), "--json", "--threads",
         str(threads), "--lr", "1e-4"], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return [line["tps"] for line in lines[1:]], [line["loss"] for line in lines]


def theirs(work, batches, autocast, experts):
    import torch
    from transformers import MiniMaxM3SparseForConditionalGeneration
    model = MiniMaxM3SparseForConditionalGeneration.from_pretrained(
        work / "model", dtype=torch.float32, attn_implementation="sdpa",
        experts_implementation=experts).train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".indexer." not in name and "vision" not in name)
    adam = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4,
                             betas=(0.9, 0.95), weight_decay=0.1)
    rates, losses = [], []
    for batch in batches:
        ids = torch.tensor(batch)
        begin = time.monotonic()
        mode = torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext()
        with mode:
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        adam.zero_grad(set_to_none=True)
        rates.append(BATCH * LENGTH / (time.monotonic() - begin))
        losses.append(loss.item())
    return rates[1:], losses


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--m3", default=ROOT / "build/release/m3")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--venv", default=ROOT / "build/torch")
    options = parser.parse_args()
    try:
        import torch
        import transformers  # noqa: F401
    except ImportError:
        python = pathlib.Path(options.venv) / "bin/python"
        if pathlib.Path(sys.prefix) == pathlib.Path(options.venv).resolve():
            sys.exit(f"{options.venv} is there, but has no torch and transformers: remove it")
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", options.venv], check=True)
            subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        os.execv(python, [str(python), *sys.argv])
    torch.set_num_threads(options.threads)
    rng = random.Random(1)
    with tempfile.TemporaryDirectory() as directory:
        work = pathlib.Path(directory)
        (work / "config.json").write_text(json.dumps(config()))
        subprocess.run([options.m3, "init", "--config", work / "config.json", "--out",
                        work / "model"], check=True, capture_output=True)
        batches = [[[rng.randrange(400) for _ in range(LENGTH)] for _ in range(BATCH)]
                   for _ in range(options.steps)]
        steps = [{"sequences": [{"ids": s, "labels": s[1:] + [-100]} for s in batch]}
                 for batch in batches]
        (work / "batches.json").write_text(json.dumps({"steps": steps}))
        results = {}

        def report(what, rates_and_losses):
            rates, losses = rates_and_losses
            results[what] = max(results.get(what, 0), statistics.median(rates))
            print(f"{what:<34} {statistics.median(rates):8.0f} tokens/s   first losses "
                  f"{', '.join(f'{loss:.4f}' for loss in losses[:2])}", flush=True)

        for _ in range(2):
            for precision in ("bf16", "f32"):
                report(f"m3 {precision}", ours(options.m3, work, options.threads, precision))
            for autocast in (False, True):
                for experts in ("eager", "grouped_mm"):
                    what = f"torch {'bf16 autocast' if autocast else 'f32'}, {experts} experts"
                    try:
                        report(what, theirs(work, batches, autocast, experts))
                    except (RuntimeError, NotImplementedError, ValueError) as error:
                        print(f"{what:<34} does not run: {str(error).splitlines()[0][:90]}")
        best = max(rate for what, rate in results.items() if what.startswith("torch"))
        print(f"\nm3 bf16 takes {best / results['m3 bf16']:.2f} of PyTorch's time "
              f"({results['m3 bf16'] / best:.2f} times as fast), {options.threads} threads")


if __name__ == "__main__":
    main()
