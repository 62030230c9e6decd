"""Writing a tokenizer in the file layout of Qwen2's published checkpoints."""

import json
from pathlib import Path

from tokenizers import Tokenizer

from npu.compiler.gguf_tokenizer import QWEN2_SPLIT as QWEN2_SPLIT

SPECIAL_TOKENS = [ "<|endoftext|>", "<|im_start|>", "<|im_end|>" ]

def save_qwen2_tokenizer( tokenizer: Tokenizer, directory: Path, context: int ) -> None:
  """Write tokenizer.json, vocab.json, merges.txt and tokenizer_config.json to `directory`."""
  tokenizer.save( str( directory / "tokenizer.json" ) )
  tokenizer.model.save( str( directory ) )
  added = { tokenizer.token_to_id( t ): t for t in SPECIAL_TOKENS }
  config = {
    "add_prefix_space": False,
    "added_tokens_decoder": {
      str( i ): { "content": t, "lstrip": False, "normalized": False, "rstrip": False,
                  "single_word": False, "special": True } for i, t in added.items() },
    "additional_special_tokens": SPECIAL_TOKENS[1:],
    "bos_token": None,
    "clean_up_tokenization_spaces": False,
    "eos_token": SPECIAL_TOKENS[0],
    "errors": "replace",
    "model_max_length": context,
    "pad_token": SPECIAL_TOKENS[0],
    "split_special_tokens": False,
    "tokenizer_class": "Qwen2Tokenizer",
    "unk_token": None,
  }
  ( directory / "tokenizer_config.json" ).write_text( json.dumps( config, indent=2 ) + "\n" )
