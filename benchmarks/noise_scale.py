"""What measuring the gradient noise scale costs on one rank of a CPU: `python benchmarks/noise_scale.py`.

Steps of eight instructions in four forwards, shape and adapters as in levers.py, float32. Each step is taken
measured and not measured, in turn, on the same samples; CPU seconds. The ratio is the median over rounds; one
in ten steps measured costs a tenth of what is above 1.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from crossfoot.metering.noise_scale import NoiseMeter
from crossfoot.models.quiet import hush_libraries
from crossfoot.output import say
from crossfoot.training.batches import collate
from crossfoot.training.cpu_memory import keep_memory
from crossfoot.training.engine import AccelerateEngine
from crossfoot.training.optimizer import parameter_kinds
from levers import SAMPLES, VOCABULARY, Samples, engine_of
from measuring import save

FORWARDS = 4


def meter_of(engine: AccelerateEngine) -> NoiseMeter:
    """As a run has it."""
    model = engine.module.model
    kinds = parameter_kinds(model)
    return NoiseMeter(engine.module, ((kinds[id(p)], p) for p in model.parameters() if p.requires_grad))


def step(engine: AccelerateEngine, meter: NoiseMeter, number: int, is_measured: bool) -> float:
    """CPU seconds of one optimizer step."""
    ids = np.arange(SAMPLES) + SAMPLES * number
    engine.set_rate(1e-4)
    torch.manual_seed(number)
    began = time.process_time()

    def forwards() -> None:
        for slot in np.split(ids, FORWARDS):
            engine.backward(engine.forward(collate(Samples(), slot, packed=True)), 1e-3, last=True)

    if is_measured:
        with meter.watching():
            forwards()
        meter.see_step(engine.gradient_parts())
    else:
        forwards()
    update = engine.step()
    if is_measured:
        meter.squares(update.loss_scale)
    return time.process_time() - began


def main() -> None:
    """Measure, print, write benchmarks/data/noise_scale.json."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    hush_libraries()
    keep_memory(os.environ)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        shape = {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8}
        shape |= {"intermediate_size": 1408, "vocab_size": VOCABULARY}
        LlamaForCausalLM(LlamaConfig(**shape)).save_pretrained(folder)
        engine = engine_of(folder, "float32")
    meter = meter_of(engine)
    seconds = [
        [step(engine, meter, number, is_measured) for is_measured in (False, True)]
        for number in range(rounds + 1)  # the first is for memory and caches
    ][1:]
    ratios = sorted(measured / plain for plain, measured in seconds)
    often = np.array([statistics.median(ratios), ratios[0], ratios[-1]])
    rows = []
    for name, share in (("every step", 1.0), ("every 10 steps", 0.1), ("never", 0.0)):
        middle, low, high = (1 + (often - 1) * share).tolist()
        rows.append({"measured": name, "rounds": rounds, "times as long": middle, "spread": [low, high]})
        say(f"{name:16} {middle:.4f}   {low:.4f} to {high:.4f}")
    save("noise_scale", {"rows": rows})


if __name__ == "__main__":
    main()
