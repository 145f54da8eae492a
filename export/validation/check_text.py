"""Bundled texts: one to check exports on, one to measure ranges of KV caches on, and prompts to measure agreement on.

The first is real English in the public domain. The second is of many kinds, and differs from the first, on which its
result is judged. The prompts are short and of many kinds.
"""

from __future__ import annotations

PASSAGE_NAME = "Alice's Adventures in Wonderland (Lewis Carroll, 1865)"

PASSAGE = """\
Alice was beginning to get very tired of sitting by her sister on the bank, and of having nothing to do: once or \
twice she had peeped into the book her sister was reading, but it had no pictures or conversations in it, "and what \
is the use of a book," thought Alice "without pictures or conversations?"

So she was considering in her own mind (as well as she could, for the hot day made her feel very sleepy and stupid), \
whether the pleasure of making a daisy-chain would be worth the trouble of getting up and picking the daisies, when \
suddenly a White Rabbit with pink eyes ran close by her.

There was nothing so very remarkable in that; nor did Alice think it so very much out of the way to hear the Rabbit \
say to itself, "Oh dear! Oh dear! I shall be late!" (when she thought it over afterwards, it occurred to her that she \
ought to have wondered at this, but at the time it all seemed quite natural); but when the Rabbit actually took a \
watch out of its waistcoat-pocket, and looked at it, and then hurried on, Alice started to her feet, for it flashed \
across her mind that she had never before seen a rabbit with either a waistcoat-pocket, or a watch to take out of it, \
and burning with curiosity, she ran across the field after it, and fortunately was just in time to see it pop down a \
large rabbit-hole under the hedge.
"""

MIXTURE_NAME = "a mixture of texts"

MIXTURE = """\
User: Hi! Can you plan three days in Lisbon for two people, under 400 euros?
Assistant: Sure. Day 1: Alfama on foot (free), lunch at 12:30, tram 28 at 3.10 each. Day 2: Belém; the tower costs 8.

def mean(values: list[float]) -> float:
    total = sum(x * 1.0 for x in values if x is not None)
    return total / max(1, len(values))  # 0.0 for an empty list

Once upon a time there was a little girl named Lily. She loved to play with her big red ball in the park. One day the \
ball rolled away, and Lily began to cry. "Do not worry," said Tom, "I will help you find it!"

In 1969, 600 million people watched; 1,234.56 + 78.9 = 1313.46, so x^2 - 3x + 2 = 0 has the roots 1 and 2.
| city | people | km2 |
|------|--------|-----|
| Oslo | 709037 | 454 |

Die Straße war naß, und es regnete. Où est la gare ? ¿Qué hora es? Пожалуйста, дайте воды. 你好,世界。今日は晴れです。

{"id": 17, "tags": ["a", "b"], "url": "https://example.org/a?b=c&d=%20", "ok": true, "note": null}
WHEREAS the parties agree as follows: (a) the Seller shall deliver; (b) the Buyer shall pay within thirty (30) days.
"""

# For models with a chat template.
PROMPTS = (
    "Write a short bedtime story about a little fox who cannot sleep.",
    "Explain to a child why the sky is blue.",
    "Write a Python function that returns the mean of a list of numbers.",
    "Plan three days in Lisbon for two people, under 400 euros.",
    "A train leaves at 9:40 and arrives at 12:15. How long is the journey? Think step by step.",
    "Write a polite email that moves a meeting from Monday to Thursday.",
)

# For models without one, which continue a text.
OPENINGS = (
    "Once upon a time there was a little girl named Lily. She loved to play",
    "The sky is blue because",
    "def mean(values: list[float]) -> float:\n",
    "Tom and his mother went to the city. On the first day, they",
    "Question: A train leaves at 9:40 and arrives at 12:15. How long is the journey?\nAnswer:",
    "Dear Ms. Miller,\n\nI am writing to",
)
