"""Models of the usual kinds, small enough to be made and exported in a second. Imports torch."""

import string
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Transformer
from transformers import BertConfig, BertModel, BertTokenizer

WINDOW_TOKENS = 32


def transformer(folder: Path) -> Transformer:
    """Return a Bert of chance weights, its words spelt in letters, saved in `folder` meanwhile."""
    torch.manual_seed(0)
    letters = string.ascii_lowercase
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "?", *letters]
    vocabulary += [f"##{letter}" for letter in letters]
    tokenizer = BertTokenizer(vocab={word: at for at, word in enumerate(vocabulary)})
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=WINDOW_TOKENS,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    bert: Transformer = Transformer(str(folder), max_seq_length=WINDOW_TOKENS)
    return bert


def save(folder: Path, *modules: torch.nn.Module) -> SentenceTransformer:
    """Return the model made of `modules`, saved in `folder`."""
    model = SentenceTransformer(modules=list(modules), device="cpu")
    model.save(str(folder))
    return model
