"""Small language models and their tokenizer: build, load, save; any Hugging Face causal LM by name."""

from contextlib import contextmanager
from pathlib import Path

import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from rlbook import validate
from rlbook.llm import tasks

MODELS = Path(__file__).resolve().parents[2] / "data" / "models"  # the repository's, as notebooks see it
PAD, END = "<pad>", "<end>"


def tokenizer():
    """A tokenizer with one token a character of `tasks.ALPHABET`, after a padding and an end token.

    It adds no begin token and no end token. A character outside the alphabet raises when it is encoded.
    """
    vocabulary = {token: i for i, token in enumerate([PAD, END, *tasks.ALPHABET])}
    characters = Tokenizer(WordLevel(vocabulary, unk_token="<unknown>"))  # not in the vocabulary: raises
    characters.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    characters.decoder = decoders.Fuse()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=characters,
        pad_token=PAD,
        eos_token=END,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def build(seed=0, hidden=128, layers=4, heads=4, context=128):
    """A Llama with random weights over `tokenizer()`: float32, eval mode, no dropout, tied embeddings.

    The default has 0.66 million parameters. The global random state is left as it was.
    """
    sizes = {"hidden": hidden, "layers": layers, "heads": heads, "context": context}
    for name, value in sizes.items():
        validate.integer(name, value)
    if hidden % (2 * heads):
        raise ValueError(f"hidden: expected a multiple of 2 * heads = {2 * heads}, got {hidden}")
    characters = tokenizer()
    config = LlamaConfig(
        vocab_size=len(characters),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=characters.eos_token_id,
        pad_token_id=characters.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(validate.integer("seed", seed, low=0))
        return LlamaForCausalLM(config).float().eval()


def load(name_or_path, device="cpu", dtype=torch.float32):
    """(model, tokenizer) from a folder, a name in `data/models`, or a Hugging Face name; eval mode.

    A tokenizer without a padding token pads with its end token: nothing here tells padding from text by
    the token, the masks do. Raises ValueError that says what to do for a name nobody knows, a tokenizer
    without an end token, and a model with fewer embeddings than the tokenizer has tokens.
    """
    path = MODELS / str(name_or_path)
    path = path if path.is_dir() else name_or_path
    try:
        with _quiet():
            model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
        words = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        known = sorted(p.name for p in MODELS.glob("*") if p.is_dir())
        raise ValueError(
            f"name_or_path: expected a folder, one of {', '.join(known) or '(data/models is empty)'}, or a"
            f" Hugging Face causal model this machine has or can download; got"
            f" {str(name_or_path)!r} ({error})"
        ) from error
    if words.eos_token_id is None:
        raise ValueError(
            f"{name_or_path}: the tokenizer has no end token, so no completion could end; set"
            " tokenizer.eos_token to the token the model was trained to end with, and save it again"
        )
    if words.pad_token_id is None:
        words.pad_token = words.eos_token
    embeddings = model.get_input_embeddings().weight.shape[0]
    if embeddings < len(words):
        raise ValueError(
            f"{name_or_path}: the tokenizer has {len(words)} tokens but the model has {embeddings}"
            " embeddings; save the model with its own tokenizer, or call"
            " model.resize_token_embeddings(len(tokenizer)) first"
        )
    words.padding_side = "left"
    return model.to(device).eval(), words


def save(model, tokenizer, path, card=None):
    """Write weights (safetensors), configuration, tokenizer and a model card to the folder `path`.

    `card` is the text of README.md. AutoModelForCausalLM and AutoTokenizer read the folder offline.
    """
    with _quiet():
        model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    if card is not None:
        (Path(path) / "README.md").write_text(card, encoding="utf-8")


@contextmanager
def _quiet():
    """No progress bar of transformers inside: it belongs to downloads, which show their own."""
    shown = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers.utils.logging.enable_progress_bar()
