"""A small grammar of English sentences for synthetic corpora: about 200 words that cover all phones.

No word has an l after its vowel (``small``, ``milk``): espeak colours the vowel there and has no time for the l itself.
"""

from __future__ import annotations

import random
from collections import Counter

# espeak pronounces "in the", "on the" and "from the" as one word each, hence NEAR_DET after those.
GRAMMAR: dict[str, str] = {
    "S": "NP VT NP|NP VT PL|NP VI PP|NP VI ADV|NP MOD VB NP|PRO MOD VB NP|NAME and NAME MOD VB PL|TIME PRO MOD VB "
         "PL|NUM PL MOD VB NP"
    "|NAME VT NUM ADJ PL|PRO ADV VB NP TIME|VB NP PP|VB ADJ PL PP|NUM ADJ PL PP|COUNT|ADV but ADV|PL and PL|PP "
    "and PP|DET ADJ PLACE"
    "|NAME VT DET PLACE|NAME MOD VB PL PP",
    "COUNT": "NUM NUM|NUM NUM NUM|NUM NUM NUM NUM|NUM NUM NUM NUM NUM",
    "NP": "DET AN|DET AN|DET ADJ AN|DET TH|DET ADJ TH|NAME",
    "PP": "PREP DET PLACE|NEAR NEAR_DET PLACE|with NAME",
    "TIME": "DAY|every PART|this PART|before the PART|after PART",
    "DET": "the|the|the|a|a|this|that|every|my|his",
    "NEAR_DET": "a|my|this|his",
    "AN": "dog|cat|horse|bird|mouse|sheep|fox|teacher|doctor|farmer|judge|pilot|baker|singer|boy|king|woman|brother|mother|father|nurse|thief",
    "TH": "letter|song|story|picture|bottle|coat|jacket|bag|ring|orange|bread|cheese|juice|soup|fish|sugar|water|treasure|voice|noise|choice"
    "|toy|measure|bath|vision",
    "PLACE": "house|garden|river|mountain|bridge|road|city|village|church|kitchen|window|table|chair|ship|train|station|garage|beach|path",
    "PL": "dogs|cats|horses|boats|books|letters|coins|keys|eggs|boxes|apples|cups|shoes|toys|months",
    "VT": "sees|takes|finds|likes|wants|brings|opens|closes|watches|washes|catches|throws|loses|hears|loves|makes|buys|paints|carries|enjoys|measures",
    "VI": "runs|walks|sleeps|waits|sings|laughs|works|swims|stays|jumps",
    "VB": "see|take|find|bring|open|watch|wash|push|choose|show|join",
    "MOD": "can|should|could|would|must|may",
    "ADJ": "red|blue|green|yellow|white|black|brown|large|young|good|bad|happy|hungry|warm|new|long|short|thin|thick|soft|heavy|dark|cheap|loud|smooth|usual",
    "ADV": "quickly|slowly|often|never|early|late|again|together",
    "DAY": "today|tomorrow",
    "PART": "winter|summer|morning|evening|night",
    "PREP": "under|near|behind|over|to|about|before|after",
    "NEAR": "in|on|from",
    "NUM": "one|two|three|four|five|six|seven|eight|nine|ten",
    "NAME": "George|Sarah|Joyce|Martha|Ruth|Hugh|Vera",
    "PRO": "he|she|we|they|you|I",
}  # fmt: skip

_RULES = {name: [option.split() for option in options.split("|")] for name, options in GRAMMAR.items()}
MAX_WORDS = 7
MIN_WORDS = 2


def vocabulary() -> list[str]:
    """All words that the grammar can produce, lower case, sorted."""
    words = {token for options in _RULES.values() for option in options for token in option if token not in _RULES}
    return sorted({word.lower() for word in words})


class SentenceGenerator:
    """Draws sentences of 2 to 7 words; equal seeds give equal sentences.

    Args:
        seed: seed of the draws.
        balanced: of two drawn words take the one used less often so far, so that a small corpus holds each word several
            times.
    """

    def __init__(self, seed: int, balanced: bool = False) -> None:
        self._random = random.Random(seed)
        self._balanced = balanced
        self._used: Counter[str] = Counter()

    def __call__(self) -> list[str]:
        """Returns the next sentence as lower-case words."""
        while True:
            words = _with_articles(self._expand("S"))
            if MIN_WORDS <= len(words) <= MAX_WORDS:
                self._used.update(words)
                return words

    def _expand(self, symbol: str) -> list[str]:
        if symbol not in _RULES:
            return [symbol.lower()]
        options = _RULES[symbol]
        choice = self._random.choice(options)
        if self._balanced and all(len(option) == 1 and option[0] not in _RULES for option in options):
            other = self._random.choice(options)
            choice = min(choice, other, key=lambda option: self._used[option[0].lower()])
        return [word for token in choice for word in self._expand(token)]


def _with_articles(words: list[str]) -> list[str]:
    """Write ``the`` for ``a`` before a vowel letter."""
    following = words[1:] + [""]
    return [
        "the" if word == "a" and after[:1] in tuple("aeiou") and after != "usual" else word
        for word, after in zip(words, following)
    ]
