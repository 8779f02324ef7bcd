"""A trained model as a directory that transformers 4.5x and 5.x load by `AutoTokenizer` and the registry's auto class."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import save_file

from sleep_tune import __version__
from sleep_tune.config import Config
from sleep_tune.data.tokenizer import save_pretrained_tokenizer
from sleep_tune.presets import write_yaml
from sleep_tune.training.registry import MODELS

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def save_model(model: "PreTrainedModel", tokenizer_file: Path, directory: Path, config: Config, metrics: dict[str, float]) -> None:
    """Publish weights, config, tokenizer and model card at `directory`, replacing what is there."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".model.") as name:
        target = Path(name) / "model"
        target.mkdir()
        tensors = {key: value.detach().cpu().contiguous().clone() for key, value in model.state_dict().items()}
        # RoBERTa's lm_head.bias is there by both of its names: transformers 4.5x asks for one, 5.x for the other
        if model.config.tie_word_embeddings:
            head = next(name for name, module in model.named_modules() if module is model.get_output_embeddings())
            del tensors[f"{head}.weight"]  # it is the word embedding, and loading ties it again
        save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
        described = {**model.config.to_diff_dict(), "architectures": [type(model).__name__], "torch_dtype": "float32", "dtype": "float32"}
        (target / "config.json").write_text(json.dumps(described, indent=2, sort_keys=True) + "\n")
        save_pretrained_tokenizer(tokenizer_file, target, config.model.positions - MODELS[config.model.name].reserved_positions)
        (target / "README.md").write_text(model_card(config, metrics))
        if directory.exists():
            shutil.rmtree(directory)
        target.replace(directory)


def model_card(config: Config, metrics: dict[str, float]) -> str:
    """What the model is, how it was trained, and its last numbers."""
    numbers = "\n".join(f"- {name}: {value:.4g}" for name, value in sorted(metrics.items()))
    pipeline, kind = _KINDS[config.objective]
    return (
        f"---\nlibrary_name: transformers\npipeline_tag: {pipeline}\ntags: [babylm, sleep-tune]\n---\n\n"
        f"# A {config.model.name} {kind} language model trained by sleep-tune {__version__}\n\n"
        f"{config.budget_words:,} words seen, seed {config.seed}.\n\n{numbers}\n\n"
        f"## Configuration\n\n```yaml\n{write_yaml(config.model_dump(mode='json', exclude_none=True))}```\n"
    )


_KINDS = {"mlm": ("fill-mask", "masked"), "clm": ("text-generation", "causal")}
