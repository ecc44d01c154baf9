"""Words as numbers: the vocabulary and the tokeniser of text in front of word vectors."""

import collections
import pathlib
import string
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Int32

from zoo_jax.core.errors import ConfigError, DataError
from zoo_jax.core.files import PathLike, atomic_write

PAD, BOS, EOS, UNKNOWN = SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def split_words(text: str) -> list[str]:
    """The words of a text: ASCII punctuation removed, lower case, parted at white space.

    >>> split_words("Don't  add the SALT, yet!")
    ['dont', 'add', 'the', 'salt', 'yet']

    Source: the word tokeniser of DMVR, which the reference code of VATT uses.
    """
    return text.translate(_NO_PUNCTUATION).lower().split()


class Vocabulary:
    """A list of words; the number of a word is its place. Number 0 pads.

    >>> words = Vocabulary.build(["bin blue", "lay blue"])
    >>> words.encode("Lay blue, soon!", length=5).tolist()
    [6, 4, 3, 0, 0]
    >>> words.decode([6, 4, 3, 0, 0])
    'lay blue <unk>'

    Args:
      words: All words, lower case and without white space, the first of them ``"<pad>"``.
      unknown: Words that are not in the list become ``"<unk>"``, as in the reference, or with
        ``"drop"`` are left out.

    Raises:
      DataError: for a list that is not as above.
    """

    def __init__(
        self, words: Sequence[str], *, unknown: Literal["unk", "drop"] = "unk"
    ):
        if unknown not in ("unk", "drop"):
            raise ConfigError(f'unknown must be "unk" or "drop", got {unknown!r}')
        self.words = tuple(words)
        self._numbers = {word: i for i, word in enumerate(self.words)}
        self._unknown = self._numbers.get(UNKNOWN) if unknown == "unk" else None
        _check(self.words, needs_unknown=unknown == "unk")

    def __len__(self) -> int:
        return len(self.words)

    @classmethod
    def read(
        cls, path: PathLike, *, unknown: Literal["unk", "drop"] = "unk"
    ) -> "Vocabulary":
        """Reads a vocabulary file: a word per line, or its number, a space and the word.

        The numbers must be 0, 1, 2, ... without a gap, in any order.

        Raises:
          DataError: for a file that is absent or not of this form; the message has the line.
        """
        path = pathlib.Path(path)
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: the vocabulary cannot be read: {error}") from None
        found: dict[int, str] = {}
        for place, line in enumerate(lines):
            parts = line.split()
            if len(parts) not in (1, 2) or (len(parts) == 2 and not parts[0].isdigit()):
                raise DataError(
                    f"{path}:{place + 1}: {line!r} is neither a word nor a number and a word"
                )
            number = int(parts[0]) if len(parts) == 2 else place
            if number in found:
                raise DataError(f"{path}:{place + 1}: number {number} occurs twice")
            found[number] = parts[-1]
        if sorted(found) != list(range(len(found))):
            gap = min(set(range(len(found))) - set(found))
            raise DataError(f"{path}: no word has the number {gap}")
        try:
            return cls([found[i] for i in range(len(found))], unknown=unknown)
        except DataError as error:
            raise DataError(f"{path}: {error}") from None

    def write(self, path: PathLike) -> None:
        """Writes the file that `read` reads, whole or not at all. Raises `OSError`."""
        with atomic_write(path) as file:
            file.writelines(f"{word}\n" for word in self.words)

    @classmethod
    def build(
        cls, texts: Iterable[str], *, size: int = 2**16, min_count: int = 1
    ) -> "Vocabulary":
        """The most frequent words of texts behind the four special ones.

        Args:
          texts: Sentences.
          size: Most entries, the special ones included. VATT has 2^16.
          min_count: Rarer words are left out.

        Returns:
          Words by falling count; among equals in alphabetical order.

        Raises:
          ConfigError: for a size that has no room for a word.
        """
        if size <= len(SPECIALS) or min_count < 1:
            raise ConfigError(
                f"a vocabulary needs size > {len(SPECIALS)} and min_count >= 1, got "
                f"{size} and {min_count}"
            )
        counts = collections.Counter(w for text in texts for w in split_words(text))
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        words = [word for word, count in ranked if count >= min_count]
        return cls([*SPECIALS, *words[: size - len(SPECIALS)]])

    def encode(self, text: str, *, length: int = 16) -> Int32[np.ndarray, "length"]:
        """Numbers of the first `length` words, then zeros."""
        numbers = (self._numbers.get(w, self._unknown) for w in split_words(text))
        numbers = [n for n in numbers if n is not None][:length]
        return np.array(numbers + [0] * (length - len(numbers)), np.int32)

    def knows(self, text: str) -> bool:
        """Whether a text has at least one word of the list."""
        return any(word in self._numbers for word in split_words(text))

    def decode(self, numbers: Iterable[int]) -> str:
        """The words up to the first 0, with spaces between."""
        out = []
        for number in numbers:
            if number == 0:
                break
            out.append(self.words[int(number)])
        return " ".join(out)


def _check(words: Sequence[str], *, needs_unknown: bool) -> None:
    if not words or words[0] != PAD:
        raise DataError(
            f"the first word of a vocabulary must be {PAD}, which fills up short sentences, "
            f"got {words[0] if words else 'none'!r}"
        )
    if needs_unknown and UNKNOWN not in words:
        raise DataError(
            f'a vocabulary needs the word {UNKNOWN}, or unknown="drop" to leave words out'
        )
    if len(set(words)) < len(words):
        twice = next(w for w, n in collections.Counter(words).items() if n > 1)
        raise DataError(f"the word {twice!r} occurs twice in the vocabulary")
    odd = next((w for w in words if w != w.lower() or not w or w.split() != [w]), None)
    if odd is not None:
        raise DataError(
            f"the word {odd!r} is not one word in lower case: no text would ever match it"
        )
