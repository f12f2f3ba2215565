#!/usr/bin/env python3
"""Adapters exchanged with `peft` over the official classes of `transformers`, both ways.

    scripts/lora_exchange.py [--m3 build/release/m3] [--work DIR]

Makes the tiny model `train` of tests/data/models, trains adapters on it with `m3 train --lora`, loads
them with peft and compares logits; makes adapters with peft, trains them there, and compares what
`m3 logits --lora` answers. All in float32: eager attention and experts there, the reference here.
Prints the largest difference of each exchange, and fails above 1e-4 of the largest logit.

Needs torch, transformers >= 5.23, peft >= 0.21 and safetensors (pip install torch transformers peft).
"""
import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import MiniMaxM3SparseForConditionalGeneration

ROOT = pathlib.Path(__file__).resolve().parent.parent
SEED = 31  # of the model's weights
IMAGE = 473  # the placeholder
TOLERANCE = 1e-4  # the goldens'

TEXT = "model.language_model.layers."
GROUPS = {  # what peft is told for each of ours: ends of modules' names, then of parameters'
    "attn": (("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"), ()),
    "dense": (("mlp.gate_up_proj", "mlp.down_proj"), ()),
    "shared": (("shared_experts.gate_up_proj", "shared_experts.down_proj"), ()),
    "experts": ((), ("experts.gate_up_proj", "experts.down_proj")),
}
# Not among our groups; adapters of others may have them.
FOREIGN = ("self_attn.indexer.q_proj", "self_attn.indexer.k_proj")


class Exchange:
    def __init__(self, m3, work):
        self.m3, self.work = m3, work
        self.failed = False
        config = ROOT / "tests/data/models/train/config.json"
        self.run("synth", "--config", config, "--seed", SEED, "--out", work / "model")
        rng = random.Random(1)
        self.batch = [[rng.randrange(1, 400) for _ in range(40)] for _ in range(2)]
        steps = [{"sequences": [{"ids": s, "labels": s[1:] + [-100]} for s in self.batch]}] * 8
        (work / "batches.json").write_text(json.dumps({"steps": steps}))
        (work / "ids.json").write_text(json.dumps(self.batch[0]))
        # A picture of 4 x 6 patches, for adapters of the vision tower: 2 x 3 placeholders.
        self.picture = [5, 9, *[IMAGE] * 6, *self.batch[0]]
        (work / "picture.json").write_text(json.dumps(self.picture))
        torch.manual_seed(2)
        self.pixels = {"pixel_values": torch.rand(24, 3 * 2 * 14 * 14) * 3 - 1.5,
                       "grid_thw": torch.tensor([[1, 4, 6]])}
        save_file(self.pixels, work / "pixels")

    def run(self, *arguments):
        done = subprocess.run([self.m3, *map(str, arguments)], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(done.stderr)

    def official(self):
        return MiniMaxM3SparseForConditionalGeneration.from_pretrained(
            self.work / "model", dtype=torch.float32, attn_implementation="eager",
            experts_implementation="eager").eval()

    def our_logits(self, adapter, picture=False):
        lora = ["--lora", adapter] if adapter else []
        rows = ["--rows", self.work / "pixels"] if picture else []
        ids = self.work / ("picture.json" if picture else "ids.json")
        self.run("logits", self.work / "model", "--backend", "reference", *lora, *rows,
                 "--ids-file", ids, "--out", self.work / "logits")
        return load_file(self.work / "logits")["logits"]

    def their_logits(self, model, picture=False):
        ids = torch.tensor([self.picture if picture else self.batch[0]])
        seen = {"pixel_values": self.pixels["pixel_values"],
                "image_grid_thw": self.pixels["grid_thw"]} if picture else {}
        with torch.no_grad():
            return model(input_ids=ids, use_cache=False, **seen).logits[0]

    def report(self, what, ours, theirs, base):
        largest = theirs.abs().max().item()
        difference = (ours - theirs).abs().max().item()
        effect = (theirs - base).abs().max().item()
        print(f"{what:<58} {difference:.2e} of {largest:.1f}, adapter moves {effect:.2f}")
        self.failed |= not difference <= TOLERANCE * largest

    def ours_to_theirs(self, groups, base):
        adapter = self.work / f"ours-{'-'.join(groups)}"
        self.run("train", self.work / "model", "--backend", "reference", "--batches",
                 self.work / "batches.json", "--lora", ",".join(groups), "--rank",
                 "4,experts=2" if "experts" in groups else "4", "--alpha", "8", "--lr", 3e-3,
                 "--out", adapter)
        model = PeftModel.from_pretrained(self.official(), adapter).eval()
        self.report(f"m3 -> peft: {', '.join(groups)}", self.our_logits(adapter),
                    self.their_logits(model), base)
        self.expect_all_loaded(model, adapter)

    # peft warns of tensors that it leaves out, and goes on.
    def expect_all_loaded(self, model, adapter):
        again = self.work / "again"
        model.save_pretrained(again)
        mine = load_file(adapter / "adapter_model.safetensors")
        theirs = load_file(again / "adapter_model.safetensors")
        if mine.keys() != theirs.keys() or any(not torch.equal(mine[k], theirs[k]) for k in mine):
            print("  peft saves other tensors than it was given:",
                  sorted(mine.keys() ^ theirs.keys())[:6])
            self.failed = True

    def theirs_to_ours(self, groups, base, foreign=()):
        model = self.official()
        modules = [e for g in groups for e in GROUPS[g][0]] + list(foreign)
        parameters = [e for g in groups for e in GROUPS[g][1]]
        names = [n for n, _ in model.named_modules()
                 if n.startswith(TEXT) and n.endswith(tuple("." + m for m in modules))]
        full = [n for n, _ in model.named_parameters()
                if n.startswith(TEXT) and n.endswith(tuple("." + p for p in parameters))]
        if foreign:
            names += [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)
                      and ("vision_tower" in n or "projector" in n or n == "lm_head")]
        torch.manual_seed(5)
        config = LoraConfig(r=4, lora_alpha=8, target_modules=names, target_parameters=full,
                            rank_pattern={n: 2 for n in full}, use_rslora=bool(foreign))
        model = get_peft_model(model, config).train()
        optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
        ids = torch.tensor(self.batch)
        for _ in range(8):
            optimiser.zero_grad()
            model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
            optimiser.step()
        if foreign:  # no loss moves these
            for name, value in model.named_parameters():
                if "lora_B" in name and any(w in name for w in ("indexer", "vision", "projector")):
                    torch.nn.init.normal_(value, std=0.05)
        model.eval()
        adapter = self.work / f"theirs-{'-'.join(groups)}-{len(foreign)}"
        model.save_pretrained(adapter)
        picture = bool(foreign)
        what = ", ".join(groups) + (", indexer, head, vision" if foreign else "")
        self.report(f"peft -> m3: {what}", self.our_logits(adapter, picture),
                    self.their_logits(model, picture), base)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--m3", default=ROOT / "build/release/m3")
    parser.add_argument("--work", help="directory to keep (default: a temporary one)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        exchange = Exchange(options.m3, pathlib.Path(options.work or temporary))
        base = exchange.their_logits(exchange.official())
        exchange.report("no adapter", exchange.our_logits(None), base, base)
        for groups in [["attn"], ["dense"], ["shared"], ["experts"], list(GROUPS)]:
            exchange.ours_to_theirs(groups, base)
            exchange.theirs_to_ours(groups, base)
        base = exchange.their_logits(exchange.official(), picture=True)
        exchange.report("no adapter, a picture", exchange.our_logits(None, True), base, base)
        exchange.theirs_to_ours(list(GROUPS), base, FOREIGN)
    sys.exit("differences above the tolerance" if exchange.failed else 0)


if __name__ == "__main__":
    main()
