"""Tiny random checkpoints of each family, saved as transformers and sentence-transformers save them."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

MAX_LENGTH = 96
BERT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": MAX_LENGTH,
}
ROBERTA = {**BERT, "max_position_embeddings": MAX_LENGTH + 2, "pad_token_id": 0, "type_vocab_size": 1}
FAMILIES: dict[str, dict[str, Any]] = {
    "Bert": BERT,
    "DistilBert": {
        "dim": 32,
        "n_layers": 2,
        "n_heads": 2,
        "hidden_dim": 64,
        "max_position_embeddings": MAX_LENGTH,
    },
    "Roberta": ROBERTA,
    "MPNet": {**BERT, "max_position_embeddings": MAX_LENGTH + 2, "pad_token_id": 0},
    "ModernBert": {
        **BERT,
        "pad_token_id": 0,
        "cls_token_id": 2,
        "sep_token_id": 3,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "global_attn_every_n_layers": 2,
        "local_attention": 16,
    },
    "Electra": {**BERT, "embedding_size": 16},
    "XLMRoberta": ROBERTA,
}
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def word_pieces() -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    words = counted_words(tokenizer)
    letters = sorted(set("".join(words)))
    entries = dict.fromkeys([*SPECIAL, *letters, *(f"##{letter}" for letter in letters), *words])
    tokenizer.model = models.WordPiece(
        {entry: number for number, entry in enumerate(entries)}, unk_token="[UNK]"
    )
    return with_marks(tokenizer)


def byte_pairs() -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts(), trainer)
    return with_marks(tokenizer)


def unigrams() -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    words = counted_words(tokenizer)
    letters = sorted(set("".join(words)))
    scores = dict.fromkeys(SPECIAL, 0.0) | dict.fromkeys(letters, -9.0)
    scores |= {word: math.log(count / words.total()) for word, count in words.items() if len(word) > 1}
    tokenizer.model = models.Unigram(list(scores.items()), unk_id=SPECIAL.index("[UNK]"))
    return with_marks(tokenizer)


def counted_words(tokenizer: tokenizers.Tokenizer) -> Counter[str]:
    """Count the words of the texts, as a tokenizer splits them.

    Vocabularies are made of these: those of the trainers of WordPiece and Unigram differ from run to run.
    """
    words: Counter[str] = Counter()
    for text in texts():
        normalized = tokenizer.normalizer.normalize_str(text)
        words.update(word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normalized))
    return words


def texts() -> Sequence[str]:
    """The texts of every comparison; their package needs PyTorch."""
    from splade_retriever.exporting.texts import TEXTS

    return TEXTS


def with_marks(tokenizer: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


TOKENIZERS = {"Roberta": byte_pairs, "ModernBert": byte_pairs, "XLMRoberta": unigrams}


def save_checkpoint(folder: Path, family: str = "Bert", *, network: Any = None, **config: Any) -> Path:
    """Save a random masked language model and its tokenizer; return the folder."""
    import torch
    import transformers

    backend = TOKENIZERS.get(family, word_pieces)()
    torch.manual_seed(0)
    if network is None:
        settings = {**FAMILIES[family], "vocab_size": backend.get_vocab_size(), **config}
        network = getattr(transformers, f"{family}ForMaskedLM")(
            getattr(transformers, f"{family}Config")(**settings)
        )
    with torch.no_grad():
        for weight in network.parameters():
            noise = torch.randn_like(weight)
            weight.copy_(noise * 0.15 if weight.dim() > 1 else weight + noise * 0.05)
            if weight.shape == (network.config.vocab_size,):
                weight.sub_(1.0)  # most entries have no weight, as in a trained model
    network.save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=MAX_LENGTH,
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        unk_token="[UNK]",
        mask_token="[MASK]",
    ).save_pretrained(folder)
    return folder


def save_encoder(
    folder: Path,
    checkpoint: Path,
    *,
    activation: str = "relu",
    query_weights: Any = None,
    pooling: str = "max",
) -> Path:
    """Save a checkpoint as sentence-transformers does, with a table of query weights if there is one."""
    from sentence_transformers import SparseEncoder
    from sentence_transformers.base.modules import Router, Transformer
    from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding, SpladePooling

    network = Transformer(str(checkpoint), transformer_task="fill-mask", max_seq_length=MAX_LENGTH)
    modules: Sequence[Any] = [
        network,
        SpladePooling(pooling_strategy=pooling, activation_function=activation),
    ]
    if query_weights is not None:
        table = SparseStaticEmbedding(network.tokenizer, weight=query_weights, frozen=True)
        modules = [Router.for_query_document(query_modules=[table], document_modules=list(modules))]
    SparseEncoder(modules=list(modules), device="cpu").save_pretrained(str(folder))
    return folder


def add_readme(folder: Path, license: str) -> None:
    (folder / "README.md").write_text(f"---\nlicense: {license}\ntags:\n- splade\n---\n# A model\n", "utf-8")


CUSTOM_CODE = '''
"""A network with rotary positions and joined projections, as GTE's: transformers has no class for it."""

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput


class NewConfig(PretrainedConfig):
    model_type = "new"

    def __init__(self, vocab_size=500, hidden_size=32, num_heads=2, max_position_embeddings=96, **rest):
        super().__init__(**rest)
        self.vocab_size, self.hidden_size, self.num_heads = vocab_size, hidden_size, num_heads
        self.max_position_embeddings = max_position_embeddings


def rotated(rows, angles):
    first, second = rows.chunk(2, dim=-1)
    return rows * angles.cos() + torch.cat((-second, first), dim=-1) * angles.sin()


class NewForMaskedLM(PreTrainedModel):
    config_class = NewConfig

    def __init__(self, config):
        super().__init__(config)
        width = config.hidden_size
        self.words = nn.Embedding(config.vocab_size, width)
        self.joined = nn.Linear(width, 3 * width)
        self.up, self.gate, self.down = (nn.Linear(width, width) for _ in range(3))
        self.norm = nn.LayerNorm(width)
        self.decoder = nn.Linear(width, config.vocab_size)
        self.post_init()

    def forward(self, input_ids, attention_mask, **unused):
        heads = self.config.num_heads
        state = self.words(input_ids)
        batch, tokens, width = state.shape
        size = width // heads
        rates = 10000.0 ** (-torch.arange(0, size, 2).float() / size)
        angles = torch.arange(tokens)[:, None] * rates
        angles = torch.cat((angles, angles), dim=-1)
        parts = self.joined(state).view(batch, tokens, 3, heads, size).permute(2, 0, 3, 1, 4)
        query, key = rotated(parts[0], angles), rotated(parts[1], angles)
        scores = query @ key.transpose(-1, -2) / size**0.5
        scores = scores.masked_fill(attention_mask[:, None, None, :] == 0, -1e9)
        context = (scores.softmax(-1) @ parts[2]).permute(0, 2, 1, 3).reshape(batch, tokens, width)
        state = self.norm(state + context)
        state = self.norm(state + self.down(torch.nn.functional.gelu(self.gate(state)) * self.up(state)))
        return MaskedLMOutput(logits=self.decoder(state))
'''


def save_custom_checkpoint(folder: Path, scratch: Path) -> Path:
    """Save a checkpoint whose network is code in its own folder."""
    import importlib.util

    scratch.mkdir()
    (scratch / "modeling_new.py").write_text(CUSTOM_CODE, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("modeling_new", scratch / "modeling_new.py")
    assert spec is not None
    assert spec.loader is not None
    code = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(code)
    size = word_pieces().get_vocab_size()
    save_checkpoint(folder, network=code.NewForMaskedLM(code.NewConfig(vocab_size=size)))
    (folder / "modeling_new.py").write_text(CUSTOM_CODE, encoding="utf-8")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["auto_map"] = {
        "AutoConfig": "modeling_new.NewConfig",
        "AutoModelForMaskedLM": "modeling_new.NewForMaskedLM",
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder
