"""Write docs/published.md from build/published.json, which `make published` measures.

    python -m tests.published.page
"""

import json
from typing import Any

from tests.helpers import ROOT
from tests.published.prompts import EIGHT

SOURCE = ROOT / "build" / "published.json"
PAGE   = ROOT / "docs" / "published.md"
ORDER  = ( "w16a16", "bf16", "w8a16", "w8a8", "w4a16" )

HEAD = """# A published model

<!-- Written by `python -m tests.published.page` from what `make published` measured. Do not edit. -->

Qwen2.5-Coder-0.5B-Instruct (Apache-2.0), GGUF Q4_K_M, on the functional level of the NPU, which gives the bits of all
others. The reference is Hugging Face in FP32 with the same dequantised weights, so what is compared is the NPU's own
arithmetic and its weight formats, not those of the file.

## Accuracy

1,024 tokens of code and 1,024 of English, teacher-forced in windows of 512.

| precision | text | perplexity, FP32 | perplexity, NPU | top-1 agreement | mean KL (nats) |
|---|---|---|---|---|---|
"""

def parted( row: dict[str, Any] ) -> str:
  """Where a continuation leaves Hugging Face's, and by what margin of logits."""
  return "equal" if row["at"] is None else f"token {row['at'] + 1}, gap {row['gap']:.3f}"

def page( found: dict[str, Any] ) -> str:
  """The whole page."""
  text = HEAD
  for precision in ORDER:
    for name, f in found.get( f"accuracy {precision}", {} ).items():
      change = f"{f['ppl_npu']:.4f} ({f['ppl_change_percent']:+.3f} %)"
      text  += f"| `{precision}` | {name} | {f['ppl_ref']:.4f} | {change} | {f['top1']:.2f} % | {f['kl']:.1e} |\n"
  if "greedy" in found:
    rows  = found["greedy"]
    same  = sum( r["at"] is None for r in rows )
    text += f"""
## Greedy text

`w16a16`, 64 tokens: {same} of {len( rows )} prompts give Hugging Face's tokens.

| prompt | against Hugging Face |
|---|---|
"""
    text += "".join( f"| `{json.dumps( r['prompt'], ensure_ascii=False )[1:-1]}` | {parted( r )} |\n" for r in rows )
  eight = [ p for p in ORDER if f"eight {p}" in found ]
  if eight:
    text += """
## Eight prompts

Those on which another open NPU has published its agreement with Hugging Face for 16 greedy tokens (W8A8, Qwen3-0.6B:
2 of 8). Where the tokens part, the gap is that of Hugging Face's two logits there.

"""
    text += f"| prompt | {' | '.join( f'`{p}`' for p in eight )} |\n|---{'|---' * len( eight )}|\n"
    for at, prompt in enumerate( EIGHT ):
      text += f"| `{prompt}` | {' | '.join( parted( found[f'eight {p}'][at] ) for p in eight )} |\n"
    counts = ( sum( r["at"] is None for r in found[f"eight {p}"] ) for p in eight )
    text += f"| **equal** | {' | '.join( f'**{c} of 8**' for c in counts )} |\n"
  if "programs" in found:
    rows  = found["programs"]
    text += f"""
## Twelve functions

Asked for in one turn each, answered greedily, executed against the same assertions: the NPU at `w8a16` passes
{sum( r['npu'] for r in rows )}, Hugging Face {sum( r['reference'] for r in rows )} of {len( rows )}.

| function | NPU | Hugging Face | same answer |
|---|---|---|---|
"""
    word  = { True: "passes", False: "fails" }
    text += "".join( f"| `{r['name']}` | {word[r['npu']]} | {word[r['reference']]} | {'yes' if r['same'] else 'no'} |\n"
                     for r in rows )
  return text

if __name__ == "__main__":
  PAGE.write_text( page( json.loads( SOURCE.read_text( encoding="utf-8" ) ) ), encoding="utf-8" )
